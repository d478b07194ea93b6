//! A debugger that says anything, to vCPUs that do anything.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use rustix::event::{EventfdFlags, eventfd};
use vmm_core::arm::PhysicalAddress;
use vmm_core::inspect::{Memory, OutsideOfRam};

use super::{Client, Present, Server};
use crate::conductor::Conductor;
use crate::gdb::{Around, Base, DebugRegisters, Insight, Placed, Ram, Telling};
use crate::machine::{Bus, Uart};
use crate::vcpu::scripted::{Act, Script};
use crate::vcpu::{Exit, Owners, Register, Traps};

/// Where the RAM begins.
pub const RAM: u64 = 0x4000_0000;
/// How much there is, in bytes.
const RAM_BYTES: usize = 0x1_0000;

const CPUS: usize = 3;

/// What a debugger may write of what it says.
#[derive(Clone, Copy, Debug)]
pub struct Writes {
    /// Bytes of memory.
    pub memory: bool,
    /// Registers.
    pub registers: bool,
}

/// The guest does this while a debugger says that.
///
/// # Panics
///
/// When the stub does, or when it leaves behind traps, or what the debugger has not written.
pub fn fuzz(does: &[u8], says: &[u8], writes: Writes) {
    let (scripts, seen): (Vec<_>, Vec<_>) = (0..CPUS)
        .map(|vcpu| {
            let acts = does.iter().skip(vcpu).step_by(CPUS);
            let (script, seen) = Script::new(acts.map(|byte| act(*byte)));
            // Each at something else.
            let pc = RAM + 12 * vcpu as u64;
            let mut registers = seen.registers.lock().expect("nobody panics with it");
            registers.push((Register::Pc, pc.into()));
            drop(registers);
            (script, seen)
        })
        .unzip();
    // After that nobody puts anything right.
    let ends = |byte: &u8| matches!(act(*byte), Act::Leave(Exit::PowerOff) | Act::Fail);
    let ends = does.iter().any(ends);
    let bus = Bus::new(Arc::new(Uart::new(Box::new(|_| {}))), Arc::default());
    let conductor = Conductor::start(scripts, &Arc::new(bus)).expect("threads");
    conductor.run();
    let ram = Arc::new(Bytes(Mutex::new(pattern())));
    let around = Surrounded {
        ram: ram.clone(),
        placed: Placed::new(
            Base {
                offset: 0,
                text: None,
            },
            Some(RAM),
        ),
        tells: does.first().is_some_and(|byte| byte & 0x80 != 0),
    };
    let server = Server {
        conductor: &conductor,
        around: &around,
        limits: DebugRegisters {
            breakpoints: 2,
            watchpoints: 2,
        },
        over: eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"),
        present: Mutex::new(Present::default()),
    };
    let (mut there, here) = UnixStream::pair().expect("sockets");
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let client = Client::new(OwnedFd::from(here).into());
            // Why it ends is its own business.
            let _ = server.attend(&client, tell, told);
            client.hang_up();
        });
        let mut writer = there.try_clone().expect("a second end");
        scope.spawn(move || {
            // It may be hung up on.
            let _ = writer.write_all(says);
            let _ = writer.shutdown(Shutdown::Write);
        });
        let _ = there.read_to_end(&mut Vec::new());
    });
    conductor.finish();
    let left = ram.0.lock().expect("nobody panics with it");
    assert!(
        writes.memory || *left == pattern(),
        "something is left in memory"
    );
    for seen in seen.iter().filter(|_| !ends) {
        let registers = seen.registers.lock().expect("nobody panics with it");
        let masked = registers
            .iter()
            .any(|(register, value)| *register == Register::Pstate && *value != 0);
        assert!(writes.registers || !masked, "interrupts are still masked");
        let traps = seen.traps.lock().expect("nobody panics with it").all();
        assert_eq!(traps, Traps::default(), "traps are left");
    }
}

fn act(byte: u8) -> Act {
    let of = Owners {
        scenario: byte & 0x40 != 0,
        debugger: byte & 0x20 != 0,
    };
    let address = RAM + u64::from(byte & 0x18);
    Act::Leave(match byte & 7 {
        0 | 1 => Exit::Stepped { of },
        2 => Exit::Breakpoint { of },
        3 => Exit::Watchpoint { address, of },
        4 => Exit::PowersItselfOff,
        5 => Exit::PowerOff,
        6 => return Act::Fail,
        _ => return Act::Stay,
    })
}

/// Load exclusives, their stores, branches, and much that is nothing.
fn pattern() -> Vec<u8> {
    let text = [
        0x885f_7c20_u32,
        0xd503_201f,
        0x8802_7c20,
        0xd503_207f,
        0xd53b_4221,
        0,
    ];
    let words = text.iter().cycle().take(RAM_BYTES / 4);
    words.flat_map(|word| word.to_le_bytes()).collect()
}

struct Bytes(Mutex<Vec<u8>>);

impl Bytes {
    fn with<T>(
        &self,
        at: PhysicalAddress,
        bytes: usize,
        each: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T, OutsideOfRam> {
        let mut ram = self.0.lock().expect("nobody panics with it");
        let from =
            at.0.checked_sub(RAM)
                .and_then(|from| usize::try_from(from).ok());
        let range = from.and_then(|from| Some(from..from.checked_add(bytes)?));
        let piece = range.and_then(|range| ram.get_mut(range));
        Ok(each(piece.ok_or(OutsideOfRam { at, bytes })?))
    }
}

impl Memory for Bytes {
    fn read(&self, at: PhysicalAddress, into: &mut [u8]) -> Result<(), OutsideOfRam> {
        self.with(at, into.len(), |bytes| into.copy_from_slice(bytes))
    }

    fn ram(&self) -> Vec<std::ops::Range<PhysicalAddress>> {
        let end = RAM + RAM_BYTES as u64;
        std::iter::once(PhysicalAddress(RAM)..PhysicalAddress(end)).collect()
    }
}

impl Ram for Bytes {
    fn write(&self, at: PhysicalAddress, bytes: &[u8]) -> Result<(), OutsideOfRam> {
        self.with(at, bytes.len(), |there| there.copy_from_slice(bytes))
    }
}

struct Surrounded {
    ram: Arc<dyn Ram>,
    placed: Placed,
    tells: bool,
}

impl Around for Surrounded {
    fn ram(&self) -> &Arc<dyn Ram> {
        &self.ram
    }

    fn stop_time(&self) {}

    fn start_time(&self) {}

    fn interrupts(&self, cpu: usize) -> Result<(u32, u32), String> {
        match cpu {
            0 => Ok((u32::MAX, 0)),
            _ => Err("not known".to_owned()),
        }
    }

    fn interface(&self, _: usize) -> Result<(u8, u8), String> {
        Ok((0xe0, 0xff))
    }

    fn insight(&self) -> &dyn Insight {
        self
    }

    fn telling(&self) -> Option<&dyn Telling> {
        self.tells.then_some(self)
    }

    fn placed(&self) -> Option<&Placed> {
        self.tells.then_some(&self.placed)
    }
}

impl Insight for Surrounded {
    fn lock(&self) -> Result<String, String> {
        Err("not known".to_owned())
    }

    fn stop_mask(&self) -> Result<String, String> {
        Ok("none\n".to_owned())
    }

    fn notes(&self) -> Result<String, String> {
        Ok("none\n".to_owned())
    }

    fn ring(&self) -> Result<String, String> {
        Ok("a line\n".repeat(1000))
    }

    fn base(&self) -> Option<Result<Base, String>> {
        Some(Err("not known".to_owned()))
    }
}

impl Telling for Surrounded {
    fn schedule(&self) -> String {
        "0:0\n".to_owned()
    }

    fn trace(&self) -> String {
        "event\n1\n2\n3\n".to_owned()
    }

    fn held(&self, cpu: usize) -> Option<String> {
        (cpu == 1).then(|| "held at a point whose name is as long as names can become".repeat(20))
    }
}
