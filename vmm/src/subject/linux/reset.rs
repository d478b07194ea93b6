//! What pstore has for the kernel that comes after a warm reset.

use std::sync::{Arc, Mutex};

use guest_abi::memory_map::PL011_BASE;
use vm_memory::GuestMemoryMmap;
use vmm_core::pl011::spec::Register;

use super::run::{Error, Options, ended, guest};
use crate::conductor::{self, Conductor, Next};
use crate::machine::{self, Machine, Tally, Tapped};
use crate::vcpu::Width;

/// Around the file's bytes on the console: no record of the log has them (ASCII STX and ETX).
const BEGIN: u8 = 0x02;
const END: u8 = 0x03;

/// What init's shell does.
const COMMAND: &str = "mount -t pstore pstore /sys/fs/pstore; printf '\\002'; \
                       cat /sys/fs/pstore/console-ramoops-0; printf '\\003'";

/// Everything that comes over the wire.
struct Listener(Mutex<Vec<u8>>);

impl machine::Tap for Listener {
    fn read(&self, _: usize, _: u64, _: Width) -> Tapped {
        Tapped::PASSED
    }

    fn write(&self, _: usize, address: u64, _: Width, value: u64) -> Tapped {
        if address == PL011_BASE + u64::from(Register::Dr.offset()) {
            let mut heard = self.0.lock().expect("nobody panics while it listens");
            heard.push(value as u8);
        }
        Tapped::PASSED
    }
}

/// Starts the same kernel around the memory of one that has ended, and has it print what pstore kept of the console.
pub(super) fn found(
    memory: Arc<GuestMemoryMmap>,
    options: &mut Options<'_>,
) -> Result<Vec<u8>, Error> {
    let cmdline = format!("console=ttyAMA0 quiet panic=-1 init.run=\"{COMMAND}\"");
    let guest = guest(options.files, cmdline)?;
    let strays = Arc::new(Tally::default());
    let machine = Machine::reset(memory, guest, 1, options.seed, &strays)?;
    // The tap has every byte.
    machine.uart.deafen();
    let listener = Arc::new(Listener(Mutex::default()));
    let tap = Arc::clone(&listener) as Arc<dyn machine::Tap>;
    let conductor = Conductor::start(machine.vcpus, &Arc::new(machine.bus.tapped(tap)))?;
    let kernel = options.files.kernel.display();
    options.hear.starts(
        conductor.stopper(),
        &format_args!("{kernel}: started around the same memory"),
    );
    conductor.run();
    let end = match conductor.next_trap(options.deadline) {
        Next::Ended => Some(ended(&conductor)?),
        Next::Late | Next::Trapped(..) => None,
    };
    machine.uart.close();
    conductor.finish();
    let heard = listener.0.lock().expect("nobody panics while it listens");
    let why = match end {
        Some(conductor::End::PowerOff) => match between(&heard) {
            Some(text) => return Ok(text.to_vec()),
            None => "it has no console-ramoops-0",
        },
        Some(_) => "it reset itself",
        None => "it took longer than it may (--timeout)",
    };
    Err(Error::NoPstore {
        kernel: kernel.to_string(),
        why,
        said: String::from_utf8_lossy(&heard).escape_debug().to_string(),
    })
}

/// The file, if it is there.
fn between(heard: &[u8]) -> Option<&[u8]> {
    let begin = heard.iter().position(|byte| *byte == BEGIN)? + 1;
    let end = heard.iter().rposition(|byte| *byte == END)?;
    heard.get(begin..end).filter(|text| !text.is_empty())
}
