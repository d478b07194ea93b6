//! The CPU that sends: its call, its ladder, and how it goes on.

use guest_abi::protocol::{Request, STOPPING, Stop};
use vmm_core::arm::{CpuId, CpuSet, KernelVa};
use vmm_core::evidence::{End, Event, Manner, Onward, Regs, Seen, StopKind, What};
use vmm_core::inspect::{InspectError, SystemState};
use vmm_core::model::climbed;
use vmm_core::scenario::{Does, HoldUntil};

use super::{Call, Live, STAND, Spot, Stand};
use crate::subject::linux::plan::Where;
use crate::subject::linux::run::Error;
use crate::vcpu::Vcpu as _;

/// SGIs of stops: IPI_CPU_STOP, and what comes after it (Linux arch/arm64/kernel/smp.c, enum ipi_msg_type).
pub(super) const STOPS: [u64; 2] = [2, 3];

/// `struct irq_data` (include/linux/irq.h): the virtual interrupt's number, then the controller's own.
const IRQ_DATA_IRQ: u64 = 4;
const IRQ_DATA_HWIRQ: u64 = 8;

/// The last line that a panic prints.
const PANIC_END: &str = "---[ end Kernel panic";

impl Live<'_> {
    /// The sender has sent a request: who is to take it before it goes on, and whose hold ends in this rung.
    pub(super) fn sent(&mut self, cpu: usize) -> Result<(), Error> {
        let call = self.cpus[cpu].call.as_ref();
        let Some((via, to)) = call.and_then(|call| call.sent.clone()) else {
            return Ok(());
        };
        self.passes(cpu, Where::Polls(via))?;
        let rungs = climbed(self.stop_of(), self.scenario);
        let before = rungs.iter().take_while(|(rung, _)| *rung != via);
        let began: u64 = before.map(|(_, us)| us).sum();
        let ends = rungs
            .iter()
            .find(|(rung, _)| *rung == via)
            .map_or(began, |(_, us)| began + us);
        let first = self.first_request.unwrap_or_else(|| self.now());
        let mut awaited = CpuSet::new();
        let mut freed: Option<(CpuSet, u64)> = None;
        for target in to.iter() {
            let own = &self.cpus[target.index()];
            let masked = own.masks_irqs && via == Request::Irq;
            match &own.held {
                None if !masked => awaited.insert(target),
                None => {}
                Some(held) => {
                    if via != Request::Irq && held.hold.manner != Manner::Freeze {
                        awaited.insert(target);
                    }
                    if let HoldUntil::AfterRequest(ms) = held.hold.until
                        && (began..ends).contains(&(u64::from(ms) * 1000))
                    {
                        let at = first + u64::from(ms) * 1000;
                        let (cpus, until) = freed.get_or_insert((CpuSet::new(), at));
                        cpus.insert(target);
                        *until = at.max(*until);
                    }
                }
            }
        }
        self.stand = Some(Stand {
            sender: cpu,
            awaited,
            freed,
            via,
            limit: self.conductor.now() + STAND,
        });
        // The time stands with it.
        let now = self.now();
        self.set_time(now, Some(now));
        Ok(())
    }

    pub(super) fn stop_of(&self) -> &'static Stop {
        match self.scenario.stop {
            StopKind::Plain => &self.around.protocol.plain,
            StopKind::Crash => &self.around.protocol.crash,
        }
    }

    /// Ends the stand when everybody has come where they were to come.
    pub(super) fn stand_or_go_on(&mut self) -> Result<(), Error> {
        let Some(stand) = &self.stand else {
            return Ok(());
        };
        let late = self.conductor.now() >= stand.limit;
        let came = |cpu: CpuId| {
            let own = &self.cpus[cpu.index()];
            own.rests || own.took == Some(stand.via)
        };
        if !late && !stand.awaited.iter().all(came) {
            return Ok(());
        }
        let sender = stand.sender;
        if let Some((cpus, at)) = stand.freed.clone() {
            let still: CpuSet = cpus
                .iter()
                .filter(|cpu| self.cpus[cpu.index()].held.is_some())
                .collect();
            // The time of the hold has passed when it ends.
            self.set_time(at, Some(at));
            let stand = self.stand.as_mut().expect("it has just been there");
            stand.freed = None;
            stand.awaited = still.clone();
            stand.limit = self.conductor.now() + STAND;
            for cpu in still.iter() {
                self.release(cpu.index())?;
            }
            if !still.is_empty() {
                return Ok(());
            }
        }
        self.stand = None;
        let call = self.cpus[sender].call.as_ref();
        let ceiling = call.and_then(|call| call.rung).map(|(_, ends)| ends - 1);
        self.set_time(self.now(), ceiling);
        let regs = self.on(sender, |vcpu| vcpu.registers())?;
        self.pass(sender, &regs)
    }

    /// Whether a variable of the stop path says that this call climbs no ladder.
    pub(super) fn returns_at_once(&self, stop: StopKind) -> Result<bool, Error> {
        let facts = self.around.kernel.stop()?;
        let again = stop == StopKind::Crash && facts.crash_stop == Some(true);
        Ok(again || facts.stop_in_progress == Some(true))
    }

    pub(super) fn calls(&mut self, cpu: usize, stop: StopKind, regs: &Regs) -> Result<(), Error> {
        if self.cpus[cpu].call.is_some() {
            // The crash stop calls the plain one.
            return Ok(());
        }
        self.look(cpu)?;
        self.say(cpu, Seen::Trapped, What::Calls(stop));
        self.come_as_sender(cpu, |does| does == Does::Restart);
        let mut others = self.online()?;
        others.remove(CpuId(cpu as u16));
        let now = self.now();
        self.set_time(now, Some(now));
        let climbs = !others.is_empty() && !self.returns_at_once(stop)?;
        let climb = if climbs {
            let running = match self.around.kernel.system_state() {
                Ok(state) => state <= SystemState::Running,
                // A panic begins while the system runs, a restart ends that.
                Err(InspectError::NoSymbol { .. }) => self.cpus[cpu].panicked,
                Err(error) => return Err(error.into()),
            };
            Some(What::Climbs {
                stop,
                others,
                running,
            })
        } else {
            None
        };
        let functions = &self.around.functions;
        let mut spots: Vec<(u64, Spot)> =
            functions.send.iter().map(|at| (*at, Spot::Sends)).collect();
        spots.push((functions.says, Spot::Says));
        spots.push((regs.x[30], Spot::Returns(regs.sp)));
        spots.extend(self.points_of(cpu)?);
        let own = &mut self.cpus[cpu];
        own.spots = spots;
        own.call = Some(Call {
            climb,
            sent: None,
            rung: None,
            returned: false,
        });
        Ok(())
    }

    /// It has passed the guard: of two that come to it together one climbs, and which is seen by what it does behind it.
    fn climbs(&mut self, cpu: usize) {
        let call = self.cpus[cpu].call.as_mut();
        if let Some(climb) = call.and_then(|call| call.climb.take()) {
            self.say(cpu, Seen::Quiesce, climb);
        }
    }

    pub(super) fn online(&self) -> Result<CpuSet, Error> {
        match self.around.kernel.online() {
            Ok(online) => Ok(online),
            Err(InspectError::NoSymbol { .. }) => Ok(CpuSet::first(self.watch.cpus())),
            Err(error) => Err(error.into()),
        }
    }

    /// How this kernel asks by this SGI.
    pub(super) fn via(&self, sgi: u64) -> Request {
        let protocol = self.around.protocol;
        let rungs = [protocol.plain.ladder.is, protocol.crash.ladder.is].concat();
        let nmi = rungs
            .iter()
            .any(|rung| rung.request == Request::Nmi && rung.sgi.map(u64::from) == Some(sgi));
        if nmi && self.scenario.pseudo_nmi {
            Request::Nmi
        } else {
            Request::Irq
        }
    }

    pub(super) fn mask(&self, object: &str, at: u64) -> Result<CpuSet, Error> {
        let bits = self.around.kernel.space.u64(object, KernelVa(at))?;
        Ok(CpuSet::from_bits(bits))
    }

    pub(super) fn sends(&mut self, cpu: usize, regs: &Regs) -> Result<(), Error> {
        let space = &self.around.kernel.space;
        let data = KernelVa(regs.x[0]);
        let irq = space.u32("irq_data.irq", data.plus(IRQ_DATA_IRQ))?;
        let sgi = space.u64("irq_data.hwirq", data.plus(IRQ_DATA_HWIRQ))?;
        self.ipi_base
            .get_or_insert(u64::from(irq).wrapping_sub(sgi));
        if !STOPS.contains(&sgi) {
            return Ok(());
        }
        self.look(cpu)?;
        self.climbs(cpu);
        let to = self.mask("the mask of an IPI", regs.x[1])?;
        let via = self.via(sgi);
        let first = self.cpus[cpu]
            .call
            .as_ref()
            .is_none_or(|call| call.sent.is_none());
        if first {
            self.say(cpu, Seen::Quiesce, What::Reads(to.clone()));
        }
        self.logged(cpu)?;
        self.passes(cpu, Where::Asks(via))?;
        if self.cpus[cpu].held.is_some() {
            return Ok(());
        }
        let what = What::Requests {
            via,
            to: to.clone(),
        };
        self.say(cpu, Seen::Trapped, what);
        let now = self.now();
        self.first_request.get_or_insert(now);
        let rungs = climbed(self.stop_of(), self.scenario);
        let budget = rungs
            .iter()
            .find(|(rung, _)| *rung == via)
            .map_or(0, |(_, us)| *us);
        let own = &mut self.cpus[cpu];
        if let Some(call) = &mut own.call {
            call.sent = Some((via, to));
            call.rung = Some((via, now + budget));
            own.spots.retain(|(_, spot)| !matches!(spot, Spot::Sent(_)));
            own.spots.push((regs.x[30], Spot::Sent(regs.sp)));
        }
        Ok(())
    }

    /// The sender is about to print: `retry` and `failed` come behind a rung that has run out, and bring the mask that was read.
    pub(super) fn says(&mut self, cpu: usize, regs: &Regs) -> Result<(), Error> {
        let mut format = [0; 48];
        self.around
            .kernel
            .space
            .read("a format of printk", KernelVa(regs.x[0]), &mut format)?;
        let format = String::from_utf8_lossy(&format);
        if format.contains(STOPPING) {
            self.look(cpu)?;
            self.climbs(cpu);
            self.says.push((cpu, STOPPING));
            return self.passes(cpu, Where::Announces);
        }
        let lists = ["SMP: retry stop", "SMP: failed to stop"];
        let Some(list) = lists.into_iter().find(|list| format.contains(list)) else {
            return Ok(());
        };
        self.look(cpu)?;
        self.climbs(cpu);
        self.says.push((cpu, list));
        let call = self.cpus[cpu].call.as_mut();
        if let Some((via, ends)) = call.and_then(|call| call.rung.take()) {
            self.set_time(ends, Some(ends));
            self.say(cpu, Seen::Trapped, What::RungOut(via));
        }
        let mask = self.mask("the mask of a message", regs.x[2])?;
        self.say(cpu, Seen::Trapped, What::Reads(mask));
        Ok(())
    }

    pub(super) fn returns(&mut self, cpu: usize) -> Result<(), Error> {
        self.look(cpu)?;
        self.logged(cpu)?;
        self.say(cpu, Seen::Trapped, What::Returns);
        if let Some(call) = &mut self.cpus[cpu].call {
            call.returned = true;
        }
        self.set_time(self.now(), None);
        let functions = &self.around.functions;
        let mut spots = self.points_of(cpu)?;
        spots.push((functions.flush, Spot::Flushes));
        spots.extend(functions.kexec.map(|at| (at, Spot::Leaves)));
        self.cpus[cpu].spots = spots;
        Ok(())
    }

    /// A flush of the console in panic is over; the last one comes behind the last line, or before the reset.
    pub(super) fn flushed(&mut self, cpu: usize) -> Result<(), Error> {
        self.logged(cpu)?;
        self.look(cpu)?;
        if self.scenario.after == Onward::Reset {
            self.say(cpu, Seen::Trapped, What::Flushed);
            self.cpus[cpu].spots.clear();
            return Ok(());
        }
        let ends = |event: &Event| matches!(&event.what, What::Logs { text, .. } if text.starts_with(PANIC_END));
        if self.events.iter().any(ends) {
            self.say(cpu, Seen::Trapped, What::Flushed);
            self.say(cpu, Seen::Trapped, What::Goes(Onward::PanicEnd));
            self.over = Some(End::Complete);
        }
        Ok(())
    }
}
