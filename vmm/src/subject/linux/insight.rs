//! What a kernel's memory says of its stop, for a debugger.

use std::fmt::Write as _;

use vmm_core::arm::{CpuId, KernelVa};
use vmm_core::inspect::{GapReason, InspectError, Kernel, LogReader, Vmcoreinfo};

use crate::gdb;
use crate::machine::Ram;

/// A kernel's memory.
pub struct Insight {
    ram: Ram,
    cpus: u16,
    /// The bytes of its vmlinux, whose symbols are preferred.
    vmlinux: Option<Vec<u8>>,
}

impl Insight {
    /// That of a guest of so many CPUs.
    pub fn new(ram: Ram, cpus: u16, vmlinux: Option<Vec<u8>>) -> Self {
        Self { ram, cpus, vmlinux }
    }

    /// The kernel, which is found anew each time: a debugger may look before it has come up.
    fn kernel(&self) -> Result<Kernel<'_, Ram>, String> {
        let found = match &self.vmlinux {
            Some(bytes) => Kernel::with_vmlinux(&self.ram, self.cpus, bytes),
            None => Kernel::find(&self.ram, self.cpus),
        };
        found.map_err(|error| error.to_string())
    }
}

/// What this kernel may not have.
fn or_unknown<T>(
    found: Result<T, InspectError>,
    words: impl FnOnce(T) -> String,
) -> Result<String, String> {
    match found {
        Ok(found) => Ok(words(found)),
        Err(error @ InspectError::NoSymbol { .. }) => Ok(format!("not known: {error}")),
        Err(error) => Err(error.to_string()),
    }
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

impl gdb::Insight for Insight {
    fn lock(&self) -> Result<String, String> {
        let kernel = self.kernel()?;
        let panics = or_unknown(kernel.panic_cpu(), |cpu| {
            cpu.map_or("nobody".to_owned(), |cpu| format!("CPU {cpu}"))
        })?;
        let console = or_unknown(kernel.console(), |console| {
            let owner = match console.owner {
                Some(KernelVa(task)) => format!("the task at {task:#x}"),
                None => "nobody".to_owned(),
            };
            format!(
                "console_owner: {owner}; somebody waits for it: {}\nconsole_sem held: {}\noops_in_progress: {}",
                yes(console.waiter),
                yes(console.semaphore_held),
                console.oops_in_progress
            )
        })?;
        Ok(format!("panics: {panics}\n{console}\n"))
    }

    fn stop_mask(&self) -> Result<String, String> {
        let kernel = self.kernel()?;
        let online = or_unknown(kernel.online(), |online| gdb::cpus(&online))?;
        let counted = or_unknown(kernel.online_count(), |count| count.to_string())?;
        let mut text = format!("online: {online}, counted: {counted}\n");
        let facts = kernel.stop().map_err(|error| error.to_string())?;
        let words = [
            ("stop_mask", facts.stop_mask.map(|mask| gdb::cpus(&mask))),
            (
                "waiting_for_crash_ipi",
                facts.waiting_for_crash_ipi.map(|count| count.to_string()),
            ),
            ("crash_stop", facts.crash_stop.map(|is| yes(is).to_owned())),
            (
                "stop_in_progress",
                facts.stop_in_progress.map(|is| yes(is).to_owned()),
            ),
        ];
        for (name, value) in words {
            if let Some(value) = value {
                // Writing into a string does not fail.
                let _ = writeln!(text, "{name}: {value}");
            }
        }
        Ok(text)
    }

    fn notes(&self) -> Result<String, String> {
        let kernel = self.kernel()?;
        let mut text = String::new();
        for cpu in 0..self.cpus {
            let words = or_unknown(kernel.crash_note(CpuId(cpu)), |(_, note)| {
                let pc = note.regs().pc;
                let at = kernel.symbols.place(KernelVa(pc));
                let at = at.map_or(format!("{pc:#x}"), |place| place.to_string());
                gdb::note(&note, &at)
            })?;
            let _ = writeln!(text, "CPU {cpu}: {words}");
        }
        Ok(text)
    }

    fn base(&self) -> Option<Result<gdb::Base, String>> {
        let found = Vmcoreinfo::find(&self.ram).and_then(|info| {
            let offset = info.kernel_offset()?;
            let symbols = super::kaslr::symbols(&self.ram, &info);
            let text = symbols.and_then(|symbols| symbols.address("_text"));
            let text = text.ok().map(|at| at.0);
            Ok(gdb::Base { offset, text })
        });
        Some(found.map_err(|error| error.to_string()))
    }

    fn ring(&self) -> Result<String, String> {
        let kernel = self.kernel()?;
        let ring = kernel.log().map_err(|error| error.to_string())?;
        let mut text = String::new();
        for record in LogReader::default().read(&ring, false) {
            let time = record.ts_nsec / 1000;
            let words = String::from_utf8_lossy(&record.text);
            let _ = writeln!(
                text,
                "<{}>[{:5}.{:06}] {words}",
                record.level,
                time / 1_000_000,
                time % 1_000_000
            );
        }
        let reserved = |gap: &&vmm_core::inspect::Gap| gap.why == GapReason::Reserved;
        for gap in ring.gaps.iter().filter(reserved) {
            let _ = writeln!(
                text,
                "record {}: reserved, and never finished: its writer was stopped while it wrote",
                gap.id
            );
        }
        Ok(text)
    }
}
