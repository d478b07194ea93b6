//! The gate for a debugger, which has all vCPUs held and lets some of them in until one of those is trapped.

use super::{Gate, Place, Run, State, Wish};

/// Why vCPUs that a debugger let in are out again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Halt<T> {
    /// This one was trapped.
    Trapped(usize, T),
    /// Somebody asked for it.
    Asked,
    /// The run has ended.
    Ended,
}

impl<J, T, E> Gate<J, T, E> {
    /// Lets these of the held vCPUs into the guest, until one of them is trapped, somebody [asks](Gate::ask) or the run ends; all are out
    /// of the guest then. What another one was trapped by meanwhile is forgotten: it stands before what it was trapped at, and comes to
    /// it again when it is let in again.
    pub(in crate::conductor) fn run_until_halt(&self, seats: &[usize]) -> Halt<T> {
        let mut state = self.lock();
        assert!(state.wish != Wish::Run, "a debugger has all vCPUs held");
        if matches!(state.run, Run::Going) {
            for &seat in seats {
                let own = &mut state.seats[seat];
                if own.place != Place::Gone {
                    own.pass = true;
                    own.trap = None;
                    // It is on its way.
                    own.place = Place::Guest;
                    self.wake[seat].notify_all();
                }
            }
        }
        let halt = loop {
            if !matches!(state.run, Run::Going) {
                break Halt::Ended;
            }
            if let Some((seat, trap)) = state.first_trap() {
                break Halt::Trapped(seat, trap);
            }
            if std::mem::take(&mut state.asked) {
                break Halt::Asked;
            }
            state = self.wait(state);
        };
        for seat in &mut state.seats {
            seat.pass = false;
        }
        Self::kick_those_in_guest(&state);
        while !state.are_out() {
            state = self.wait(state);
        }
        for seat in &mut state.seats {
            seat.trap = None;
        }
        halt
    }

    /// Has those halt that a debugger let in, now or the next time.
    pub(in crate::conductor) fn ask(&self) {
        self.lock().asked = true;
        self.changed.notify_all();
    }
}

impl<J, T, E> State<J, T, E> {
    /// What trapped the vCPU that was trapped first of those that have come out.
    fn first_trap(&mut self) -> Option<(usize, T)> {
        let seats = self.seats.iter().enumerate();
        let first = seats
            .filter(|(_, seat)| seat.place == Place::Gate)
            .filter_map(|(at, seat)| Some((seat.trap.as_ref()?.0, at)))
            .min();
        let (_, at) = first?;
        let (_, trap) = self.seats[at].trap.take()?;
        Some((at, trap))
    }

    fn are_out(&self) -> bool {
        let mut seats = self.seats.iter();
        seats.all(|seat| matches!(seat.place, Place::Gate | Place::Gone))
    }
}
