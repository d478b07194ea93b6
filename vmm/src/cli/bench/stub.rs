//! How fast a stub for debuggers answers, and how fast a vCPU steps for one.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Why it could not be measured.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Error {
    #[error("no stub at {path}: {source}")]
    Connect { path: String, source: io::Error },
    #[error("the stub does not talk: {0}")]
    Talk(#[from] io::Error),
    #[error("the stub answers {answer:?} to {packet:?}")]
    Answer { packet: String, answer: String },
}

/// Longer than any stub needs to come up, or to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a loop is put: in RAM that is nobody's yet. `sub x0, x0, #1; cbnz x0, .-4`, two steps a turn.
const LOOP: u64 = 0x4f00_0000;
const CODE: [u32; 2] = [0xd100_0400, 0xb5ff_ffe0];
/// `pc` among the registers (gdb's org.gnu.gdb.aarch64.core).
const PC: u8 = 0x20;

/// A debugger at a guest that stands before its first instruction.
pub(super) struct Debugger(UnixStream);

impl Debugger {
    /// Connects as soon as somebody answers.
    pub(super) fn at(path: &Path) -> Result<Self, Error> {
        let until = Instant::now() + PATIENCE;
        loop {
            let source = match Self::try_at(path) {
                Ok(debugger) => return Ok(debugger),
                // Nobody is there yet, or somebody who only looked whether the place is free.
                Err(Error::Talk(source)) => source,
                Err(other) => return Err(other),
            };
            if Instant::now() > until {
                let path = path.display().to_string();
                return Err(Error::Connect { path, source });
            }
            std::thread::yield_now();
        }
    }

    fn try_at(path: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut debugger = Self(stream);
        debugger.must("?", "T05")?;
        // QEMU lets nobody set a register who has not asked what there is.
        debugger.must("qXfer:features:read:target.xml:0,40", "m")?;
        Ok(debugger)
    }

    fn ask(&mut self, packet: &str) -> Result<String, Error> {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        self.0
            .write_all(format!("${packet}#{sum:02x}").as_bytes())?;
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = self.0.read(&mut buffer)?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            heard.extend_from_slice(&buffer[..count]);
            let begin = heard.iter().position(|byte| *byte == b'$');
            let end = heard.iter().position(|byte| *byte == b'#');
            if let (Some(begin), Some(end)) = (begin, end)
                && heard.len() >= end + 3
            {
                self.0.write_all(b"+")?;
                return Ok(expanded(&heard[begin + 1..end]));
            }
        }
    }

    fn must(&mut self, packet: &str, answer: &str) -> Result<(), Error> {
        let answered = self.ask(packet)?;
        if answered.starts_with(answer) {
            return Ok(());
        }
        Err(Error::Answer {
            packet: packet.to_owned(),
            answer: answered,
        })
    }

    fn set(&mut self, register: u8, value: u64) -> Result<(), Error> {
        self.must(
            &format!("P{register:x}={}", hex(&value.to_le_bytes())),
            "OK",
        )
    }

    /// Stands before a loop of so many turns.
    fn stand(&mut self, turns: u64) -> Result<(), Error> {
        let code: Vec<u8> = CODE.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.must(&format!("M{LOOP:x},{:x}:{}", code.len(), hex(&code)), "OK")?;
        self.set(0, turns)?;
        self.set(PC, LOOP)
    }

    /// A second's registers, one by one.
    pub(super) fn round_trips(&mut self, times: u32) -> Result<f64, Error> {
        let start = Instant::now();
        for _ in 0..times {
            self.ask("p0")?;
        }
        Ok(f64::from(times) / start.elapsed().as_secs_f64())
    }

    /// A second's steps, one by one.
    pub(super) fn steps(&mut self, times: u32) -> Result<f64, Error> {
        self.stand(u64::from(times))?;
        let start = Instant::now();
        for _ in 0..times {
            self.must("vCont;s:1", "T05")?;
        }
        Ok(f64::from(times) / start.elapsed().as_secs_f64())
    }

    /// A second's steps within a range.
    pub(super) fn range(&mut self, turns: u32) -> Result<f64, Error> {
        self.stand(turns.into())?;
        let end = LOOP + 4 * CODE.len() as u64;
        let start = Instant::now();
        self.must(&format!("vCont;r{LOOP:x},{end:x}:1"), "T05")?;
        let taken = start.elapsed();
        // It is behind the loop, and not somewhere else.
        self.must(&format!("p{PC:x}"), &hex(&end.to_le_bytes()))?;
        Ok(f64::from(2 * turns) / taken.as_secs_f64())
    }
}

/// What was meant by an answer in which `*` and a byte stand for repetitions (GDB manual, "Overview" of the protocol).
fn expanded(answer: &[u8]) -> String {
    let mut text = Vec::new();
    let mut bytes = answer.iter();
    while let Some(&byte) = bytes.next() {
        match (byte, text.last().copied()) {
            (b'*', Some(last)) => {
                let count = bytes.next().map_or(0, |count| count.saturating_sub(29));
                text.extend(std::iter::repeat_n(last, count.into()));
            }
            _ => text.push(byte),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
