//! `monitor` commands: what a debugger's own language has no words for.

use std::fmt::Write as _;

use vmm_core::arm::{IntId, PhysicalAddress};

use super::target::{Error, Guest};
use super::{Base, Telling};
use crate::vcpu::{Register, System, Vcpu};

const HELP: &str = "\
help               this text
hold CPU [how]     keep a CPU where it is, whatever the debugger lets go on: freeze (it does not execute), or
                   spin (it stays at its instruction, and takes what its masks allow)
release CPU        let it go on with the others again
step-irq on|off    whether a single step lets interrupts in (off)
phys ADDR [BYTES]  guest memory by its physical address
gic [CPU]          pending and active private interrupts, and what the CPU interface lets through
ipi [CPU]          the SGIs among them, as Linux calls them
kaslr              how far the kernel lies above where it was linked
lock               who has what of the console
stopmask           who is online, and who has not acked a stop
notes              the crash notes
ring               the log
trace [N]          what the scenario has seen happen, the last N rows
schedule           who took the scenario's turns so far, as vmm run --schedule repeats it
time               the counter as each CPU reads it
";

/// Words that it can't make sense of are told, and no error: the debugger prints what it is given.
pub(super) fn command<V: Vcpu + 'static>(
    guest: &mut Guest<'_, V>,
    words: &str,
    out: &mut String,
) -> Result<(), Error> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let cpu = |word: &str, vcpus: usize| {
        let cpu = word.parse().ok().filter(|cpu| *cpu < vcpus);
        cpu.ok_or_else(|| format!("{word}: the guest has CPUs 0 to {}\n", vcpus - 1))
    };
    let vcpus = guest.vcpus();
    let said = match words.as_slice() {
        [] | ["help"] => Ok(HELP.to_owned()),
        ["hold", word] | ["hold", word, "freeze"] => cpu(word, vcpus).map(|cpu| {
            guest.freeze(cpu);
            format!("CPU {cpu} is held\n")
        }),
        ["hold", word, "spin"] => match cpu(word, vcpus) {
            Ok(cpu) => match guest.spin(cpu)? {
                Some(at) => Ok(format!("CPU {cpu} spins at {at:#x}\n")),
                None => Err(format!(
                    "CPU {cpu} has no breakpoint left to spin at; `delete` one\n"
                )),
            },
            Err(why) => Err(why),
        },
        ["hold", _, how] => Err(format!("{how}: a debugger holds by freeze or spin\n")),
        ["release", word] => cpu(word, vcpus).map(|cpu| match guest.release(cpu) {
            true => format!("CPU {cpu} goes on with the others\n"),
            false => format!("CPU {cpu} was not held\n"),
        }),
        ["step-irq", word @ ("on" | "off")] => {
            guest.step_irq = *word == "on";
            Ok(format!("a single step lets interrupts in: {word}\n"))
        }
        ["phys", address] => Ok(physical(guest, address, "64")),
        ["phys", address, bytes] => Ok(physical(guest, address, bytes)),
        ["gic"] => Ok((0..vcpus).map(|cpu| interrupts(guest, cpu)).collect()),
        ["gic", word] => cpu(word, vcpus).map(|cpu| interrupts(guest, cpu)),
        ["ipi"] => Ok((0..vcpus).map(|cpu| ipis(guest, cpu)).collect()),
        ["ipi", word] => cpu(word, vcpus).map(|cpu| ipis(guest, cpu)),
        ["kaslr"] => kaslr(guest),
        ["lock"] => known(guest.around.insight().lock()),
        ["stopmask"] => known(guest.around.insight().stop_mask()),
        ["notes"] => known(guest.around.insight().notes()),
        ["ring"] => known(guest.around.insight().ring()),
        ["trace"] => scenario(guest, |telling| Ok(telling.trace())),
        ["trace", rows] => scenario(guest, |telling| match rows.parse() {
            Ok(rows) => Ok(last(&telling.trace(), rows)),
            Err(_) => Err(format!("{rows}: how many rows?\n")),
        }),
        ["schedule"] => scenario(guest, |telling| Ok(telling.schedule())),
        ["time"] => {
            let mut text = String::new();
            for cpu in 0..vcpus {
                let counter = Register::System(System::CntvctEl0);
                let counter = guest.on(cpu, move |vcpu| vcpu.register(counter))?;
                // Writing into a string does not fail.
                let _ = writeln!(text, "CPU {cpu}: CNTVCT_EL0 {counter:#x}");
            }
            Ok(text)
        }
        _ => Err(format!(
            "no such command: {}; `monitor help`\n",
            words.join(" ")
        )),
    };
    out.push_str(&said.unwrap_or_else(|problem| problem));
    Ok(())
}

fn kaslr<V: Vcpu + 'static>(guest: &Guest<'_, V>) -> Result<String, String> {
    let Some(now) = guest.around.insight().base() else {
        return Err("this guest does not move itself\n".to_owned());
    };
    let mut text = String::new();
    if let Some(placed) = guest.around.placed() {
        let came = match placed.has_come() {
            true => "and this boot has come to start_kernel there",
            false => "and this boot has not come to start_kernel yet",
        };
        let _ = writeln!(
            text,
            "{:#x} in another boot with this seed, {came}",
            placed.base.offset
        );
    }
    match now {
        Ok(Base { offset, .. }) => {
            let _ = writeln!(
                text,
                "{offset:#x} by VMCOREINFO: symbol-file vmlinux -o {offset:#x}"
            );
        }
        Err(why) => {
            let _ = writeln!(text, "not by VMCOREINFO: {why}");
        }
    }
    Ok(text)
}

fn known(told: Result<String, String>) -> Result<String, String> {
    told.map_err(|why| format!("{why}\n"))
}

fn scenario<V: Vcpu + 'static>(
    guest: &Guest<'_, V>,
    tell: impl FnOnce(&dyn Telling) -> Result<String, String>,
) -> Result<String, String> {
    match guest.around.telling() {
        Some(telling) => tell(telling),
        None => Err("no scenario runs here: vmm debug has one\n".to_owned()),
    }
}

/// What stands above the rows, and the last ones of them.
fn last(text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(rows).max(1);
    let shown = lines
        .iter()
        .take(1)
        .chain(lines.get(first..).unwrap_or(&[]));
    shown.flat_map(|line| [line, "\n"]).collect()
}

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

/// The most that one command shows.
const MOST: u64 = 4096;

fn physical<V: Vcpu + 'static>(guest: &Guest<'_, V>, address: &str, bytes: &str) -> String {
    let wrong = |word: &str| format!("{word}: an address, and up to {MOST} bytes\n");
    let Some(at) = number(address) else {
        return wrong(address);
    };
    let Some(length) = number(bytes).filter(|bytes| (1..=MOST).contains(bytes)) else {
        return wrong(bytes);
    };
    let mut data = vec![0; length as usize];
    if let Err(outside) = guest.ram().read(PhysicalAddress(at), &mut data) {
        return format!("{outside}\n");
    }
    let mut text = String::new();
    for (line, bytes) in (0..).zip(data.chunks(16)) {
        let _ = write!(text, "{:#012x}:", at + 16 * line);
        for byte in bytes {
            let _ = write!(text, " {byte:02x}");
        }
        text.push('\n');
    }
    text
}

fn interrupts<V: Vcpu + 'static>(guest: &Guest<'_, V>, cpu: usize) -> String {
    let around = guest.around;
    let told = around.interrupts(cpu).and_then(|(pending, active)| {
        let (mask, running) = around.interface(cpu)?;
        let running = match running {
            0xff => "nothing is being handled".to_owned(),
            priority => format!("priority {priority:#04x} is being handled"),
        };
        Ok(format!(
            "CPU {cpu}: pending {}; active {}; PMR {mask:#04x}; {running}\n",
            list(pending),
            list(active)
        ))
    });
    told.unwrap_or_else(|why| format!("CPU {cpu}: {why}\n"))
}

/// `enum ipi_msg_type` (Linux arch/arm64/kernel/smp.c); the fourth is IPI_CPU_CRASH_STOP up to 6.11.
const IPIS: [&str; 8] = [
    "IPI_RESCHEDULE",
    "IPI_CALL_FUNC",
    "IPI_CPU_STOP",
    "IPI_CPU_STOP_NMI or IPI_CPU_CRASH_STOP",
    "IPI_TIMER",
    "IPI_IRQ_WORK",
    "IPI_CPU_BACKTRACE",
    "IPI_KGDB_ROUNDUP",
];

fn ipis<V: Vcpu + 'static>(guest: &Guest<'_, V>, cpu: usize) -> String {
    let names = |bits: u32| {
        let set = IPIS
            .iter()
            .enumerate()
            .filter(|(sgi, _)| bits >> sgi & 1 == 1);
        let names: Vec<&str> = set.map(|(_, name)| *name).collect();
        match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        }
    };
    match guest.around.interrupts(cpu) {
        Ok((pending, active)) => format!(
            "CPU {cpu}: pending {}; active {}\n",
            names(pending),
            names(active)
        ),
        Err(why) => format!("CPU {cpu}: {why}\n"),
    }
}

fn list(bits: u32) -> String {
    let set: Vec<String> = (0..32)
        .filter(|bit| bits >> bit & 1 == 1)
        .map(|bit| match bit {
            0..16 => IntId::sgi(bit).to_string(),
            _ => IntId::ppi(bit - 16).to_string(),
        })
        .collect();
    if set.is_empty() {
        return "none".to_owned();
    }
    set.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_named() {
        assert_eq!(list(0), "none");
        assert_eq!(
            list(1 | 1 << 27),
            format!("{}, {}", IntId::sgi(0), IntId::ppi(11))
        );
    }

    #[test]
    fn the_last_rows_have_their_header() {
        assert_eq!(last("a\n1\n2\n3\n", 2), "a\n2\n3\n");
        assert_eq!(last("a\n1\n", 5), "a\n1\n");
        assert_eq!(last("a\n1\n", 0), "a\n");
        assert_eq!(last("nothing\n", 3), "nothing\n");
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(number("0x40"), Some(64));
        assert_eq!(number("40"), Some(40));
        assert_eq!(number("x"), None);
    }
}
