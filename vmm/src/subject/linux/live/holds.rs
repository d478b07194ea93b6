//! Who is caught where, who is held, and when that ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_abi::point::Point;
use vmm_core::arm::CpuId;
use vmm_core::evidence::{Manner, Seen, Until, What};
use vmm_core::scenario::{Does, Hold, HoldUntil, Passing};

use super::{Held, Live, Spot};
use crate::subject::linux::guest;
use crate::subject::linux::plan::{self, Where, passings};
use crate::subject::linux::run::Error;
use crate::vcpu::Vcpu as _;

impl Live<'_> {
    /// A CPU that is to trigger stands at the entry of what it triggers. It waits there for whoever must have come first; only now,
    /// for what it printed till then needed the console.
    pub(super) fn come_as_sender(&mut self, cpu: usize, this: impl Fn(Does) -> bool) {
        let tasks = self.scenario.tasks.iter();
        let own = tasks
            .clone()
            .find(|task| task.cpu.index() == cpu && this(task.does));
        let masked = passings(self.scenario)
            .into_iter()
            .filter(|passing| passing.at == Point::Masked);
        let after = own.and_then(|task| task.after);
        self.cpus[cpu].awaits = after
            .into_iter()
            .chain(masked)
            .filter(|passing| !self.passed.contains(passing))
            .collect();
        self.catches = true;
        self.catch_at_console();
    }

    /// Has the tap catch the first CPU that the scenario wants at the console and that has not come there.
    pub(super) fn catch_at_console(&self) {
        if !self.catches {
            return;
        }
        let next = self.passings().into_iter().find_map(|passing| {
            let at = plan::caught_at(plan::place(passing.at)?)?;
            let new = !self.passed.contains(&passing);
            new.then_some((passing.cpu.index(), at))
        });
        if let Some((cpu, at)) = next {
            self.around.tap.catch(cpu, at);
        }
    }

    /// The console's point at which the tap has caught this CPU.
    pub(super) fn caught(&self, cpu: usize) -> Option<Point> {
        self.passings().into_iter().find_map(|passing| {
            let console = plan::place(passing.at).and_then(plan::caught_at).is_some();
            let new = !self.passed.contains(&passing);
            (console && new && passing.cpu.index() == cpu).then_some(passing.at)
        })
    }

    /// Has a CPU that the tap has caught go on to the function that the point is.
    pub(super) fn catch_behind(&mut self, cpu: usize, point: Point) -> Result<(), Error> {
        let at = guest::entry(self.around.kernel, point)?;
        let spots = at.map(|at| (at, Spot::Comes(point)));
        self.cpus[cpu].spots.extend(spots);
        self.arm(cpu)?;
        self.conductor.thaw(cpu);
        Ok(())
    }

    pub(super) fn has_passed(&self, cpu: usize, at: Point) -> bool {
        let cpu = CpuId(cpu as u16);
        self.passed.contains(&Passing { cpu, at })
    }

    /// A CPU is at a place; if that is a point of the scenario for it, it has come there.
    pub(super) fn passes(&mut self, cpu: usize, place: Where) -> Result<(), Error> {
        let point = self
            .passings()
            .into_iter()
            .find(|passing| passing.cpu.index() == cpu && plan::place(passing.at) == Some(place));
        match point {
            Some(passing) => self.comes(cpu, passing.at),
            None => Ok(()),
        }
    }

    /// A CPU has come to a point of the scenario.
    pub(super) fn comes(&mut self, cpu: usize, at: Point) -> Result<(), Error> {
        self.look(cpu)?;
        let passing = Passing {
            cpu: CpuId(cpu as u16),
            at,
        };
        let first = !self.passed.contains(&passing);
        if first {
            self.passed.push(passing);
            // It is caught there once, and debug registers are few.
            let own = &mut self.cpus[cpu].spots;
            own.retain(|(_, spot)| *spot != Spot::Comes(at));
        }
        // A hold whose end has come before it is none.
        let over = |hold: &&Hold| match hold.until {
            HoldUntil::Passing(until) => self.passed.contains(&until),
            HoldUntil::AfterRequest(_) | HoldUntil::Never => false,
        };
        let hold = self
            .scenario
            .holds
            .iter()
            .find(|hold| hold.cpu == passing.cpu && hold.at == at && first)
            .filter(|hold| !over(hold));
        match hold {
            Some(hold) => {
                self.hold(cpu, *hold)?;
                self.show(cpu, at, first);
            }
            None => {
                self.show(cpu, at, first);
                if matches!(plan::place(at), Some(Where::Console(_))) {
                    self.conductor.thaw(cpu);
                }
            }
        }
        if first {
            self.catch_at_console();
            self.release_for(passing)?;
        }
        Ok(())
    }

    /// Has a debugger look at a CPU that has come where it is to be looked at.
    fn show(&self, cpu: usize, at: Point, first: bool) {
        if first && (self.around.stop_at).is_some_and(|stop_at| stop_at.is(cpu, at)) {
            self.conductor.show(cpu);
        }
    }

    pub(super) fn hold(&mut self, cpu: usize, hold: Hold) -> Result<(), Error> {
        let regs = match hold.manner {
            Manner::Spin => Some(Arc::new(self.on(cpu, |vcpu| vcpu.registers())?)),
            Manner::Stall | Manner::Freeze => None,
        };
        if let Some(regs) = &regs {
            self.cpus[cpu].spots.push((regs.pc, Spot::Spins));
            self.arm(cpu)?;
        }
        self.cpus[cpu].held = Some(Held { hold, regs });
        let until = match hold.until {
            HoldUntil::AfterRequest(ms) => Until::AfterRequest(u64::from(ms) * 1000),
            HoldUntil::Passing(_) => Until::Event,
            HoldUntil::Never => Until::Never,
        };
        let what = What::Holds {
            at: Some(hold.at),
            manner: hold.manner,
            until,
        };
        self.say(cpu, Seen::Trapped, what);
        if hold.manner == Manner::Stall {
            self.around.tap.stall(cpu, true);
            self.conductor.thaw(cpu);
        } else if matches!(plan::place(hold.at), Some(Where::Console(_)))
            && hold.manner == Manner::Spin
        {
            self.conductor.thaw(cpu);
        }
        Ok(())
    }

    /// Ends what was to last until this came.
    pub(super) fn release_for(&mut self, passing: Passing) -> Result<(), Error> {
        for cpu in 0..self.cpus.len() {
            let awaits = &mut self.cpus[cpu].awaits;
            let before = awaits.len();
            awaits.retain(|other| *other != passing);
            if awaits.is_empty() && before > 0 {
                self.logged(cpu)?;
                let regs = self.on(cpu, |vcpu| vcpu.registers())?;
                self.pass(cpu, &regs)?;
            }
            let own = self.cpus[cpu].held.as_ref();
            if own.is_some_and(|held| held.hold.until == HoldUntil::Passing(passing)) {
                self.release(cpu)?;
            }
        }
        Ok(())
    }

    /// When the next hold ends by itself.
    pub(super) fn next_release(&self) -> Option<Instant> {
        let now = self.now();
        let first = self.first_request?;
        let holds = self.cpus.iter().filter_map(|cpu| cpu.held.as_ref());
        let ends = holds.filter_map(|held| match held.hold.until {
            HoldUntil::AfterRequest(ms) => Some(first + u64::from(ms) * 1000),
            HoldUntil::Passing(_) | HoldUntil::Never => None,
        });
        let left = ends.min()?.saturating_sub(now);
        Some(self.conductor.now() + Duration::from_micros(left))
    }

    pub(super) fn release_in_time(&mut self) -> Result<(), Error> {
        let (now, first) = (self.now(), self.first_request);
        for cpu in 0..self.cpus.len() {
            let Some(held) = &self.cpus[cpu].held else {
                continue;
            };
            let HoldUntil::AfterRequest(ms) = held.hold.until else {
                continue;
            };
            if first.is_none_or(|first| now < first + u64::from(ms) * 1000) {
                continue;
            }
            self.release(cpu)?;
        }
        Ok(())
    }

    pub(super) fn release(&mut self, cpu: usize) -> Result<(), Error> {
        self.look(cpu)?;
        let Some(held) = self.cpus[cpu].held.take() else {
            return Ok(());
        };
        self.say(cpu, Seen::Trapped, What::Releases);
        match held.hold.manner {
            Manner::Stall => self.around.tap.stall(cpu, false),
            Manner::Spin | Manner::Freeze => {
                if held.hold.manner == Manner::Spin {
                    self.conductor.freeze(cpu);
                    self.cpus[cpu]
                        .spots
                        .retain(|(_, spot)| *spot != Spot::Spins);
                }
                match plan::place(held.hold.at) {
                    Some(Where::Acks | Where::Counts) => self.store(cpu)?,
                    Some(
                        Where::Entry(_) | Where::Behind(_) | Where::Announces | Where::Asks(_),
                    ) => self.at_spot(cpu)?,
                    Some(Where::Handles) => {
                        let regs = self.on(cpu, |vcpu| vcpu.registers())?;
                        self.pass(cpu, &regs)?;
                    }
                    _ => {
                        self.arm(cpu)?;
                        self.conductor.thaw(cpu);
                    }
                }
            }
        }
        Ok(())
    }
}
