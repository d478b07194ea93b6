//! Whatever a debugger says, and whatever the guest does meanwhile: nothing panics, it ends, and memory is as the debugger left it.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vmm::gdb::{RAM, Writes, fuzz};

#[derive(Arbitrary, Debug)]
enum Word {
    Raw(Vec<u8>),
    Packet(Vec<u8>),
    Interrupt,
    Begin,
    Thread(u8),
    Register {
        number: u8,
    },
    SetRegister {
        number: u8,
        value: u64,
    },
    Registers,
    Memory {
        at: u16,
        bytes: u16,
    },
    SetMemory {
        at: u16,
        bytes: Vec<u8>,
    },
    Trap {
        set: bool,
        kind: u8,
        at: u16,
        bytes: u8,
    },
    Resume(Vec<(u8, u8, u16)>),
    Monitor {
        command: u8,
        argument: String,
    },
    Target {
        from: u16,
    },
    Info(u8),
}

const COMMANDS: [&str; 17] = [
    "",
    "help",
    "hold",
    "hold 1 spin",
    "release",
    "step-irq",
    "phys",
    "gic",
    "ipi",
    "kaslr",
    "lock",
    "stopmask",
    "notes",
    "ring",
    "trace",
    "schedule",
    "time",
];

const INFOS: [&str; 7] = [
    "qfThreadInfo",
    "qsThreadInfo",
    "qThreadExtraInfo,p1.2",
    "qOffsets",
    "QStartNoAckMode",
    "QThreadSuffixSupported",
    "D",
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Word {
    fn writes(&self) -> Writes {
        let anything = matches!(self, Self::Raw(_) | Self::Packet(_));
        Writes {
            memory: anything || matches!(self, Self::SetMemory { .. }),
            // x0 to x30, sp and pc mask nothing.
            registers: anything
                || matches!(self, Self::SetRegister { number, .. } if *number > 0x20),
        }
    }

    fn said(&self) -> Vec<u8> {
        let at = |offset: &u16| RAM + u64::from(*offset);
        let packet = match self {
            Self::Raw(bytes) => return bytes.clone(),
            Self::Interrupt => return vec![3],
            Self::Packet(bytes) => bytes.clone(),
            Self::Begin => b"qSupported:multiprocess+;swbreak+;hwbreak+".to_vec(),
            Self::Thread(thread) => format!("Hgp1.{:x}", thread % 5).into_bytes(),
            Self::Register { number } => format!("p{number:x}").into_bytes(),
            Self::SetRegister { number, value } => {
                format!("P{number:x}={}", hex(&value.to_le_bytes())).into_bytes()
            }
            Self::Registers => b"g".to_vec(),
            Self::Memory { at: from, bytes } => format!("m{:x},{bytes:x}", at(from)).into_bytes(),
            Self::SetMemory { at: from, bytes } => {
                format!("M{:x},{:x}:{}", at(from), bytes.len(), hex(bytes)).into_bytes()
            }
            Self::Trap {
                set,
                kind,
                at: from,
                bytes,
            } => {
                let letter = if *set { 'Z' } else { 'z' };
                format!("{letter}{},{:x},{bytes:x}", kind % 5, at(from)).into_bytes()
            }
            Self::Resume(actions) => {
                let mut words = "vCont".to_owned();
                for (kind, thread, start) in actions {
                    words += match kind % 4 {
                        0 => ";c",
                        1 => ";s",
                        2 => ";C05",
                        _ => ";r",
                    };
                    if kind % 4 == 3 {
                        words += &format!("{:x},{:x}", at(start), at(start) + u64::from(*kind));
                    }
                    if thread % 6 != 0 {
                        words += &format!(":p1.{:x}", thread % 6);
                    }
                }
                words.into_bytes()
            }
            Self::Monitor { command, argument } => {
                let command = COMMANDS[usize::from(*command) % COMMANDS.len()];
                format!("qRcmd,{}", hex(format!("{command} {argument}").as_bytes())).into_bytes()
            }
            Self::Target { from } => {
                format!("qXfer:features:read:target.xml:{from:x},fff").into_bytes()
            }
            Self::Info(which) => INFOS[usize::from(*which) % INFOS.len()].into(),
        };
        let sum = packet
            .iter()
            .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        let mut said = vec![b'$'];
        said.extend(packet);
        said.extend(format!("#{sum:02x}").bytes());
        said
    }
}

fuzz_target!(|session: (Vec<u8>, Vec<Word>)| {
    let (does, words) = session;
    let says: Vec<u8> = words.iter().flat_map(Word::said).collect();
    let all = words.iter().map(Word::writes);
    let writes = Writes {
        memory: all.clone().any(|writes| writes.memory),
        registers: all.clone().any(|writes| writes.registers),
    };
    fuzz(&does, &says, writes);
});
