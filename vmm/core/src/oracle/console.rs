//! The wire as a reader at its far end sees it, against the records that it has to show.

use std::sync::Arc;

use crate::arm::CpuId;

/// What has come over the wire so far.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Console {
    owed: Vec<Owed>,
    line: Vec<u8>,
    // Who wrote the line; its newline may be anybody's.
    writers: Vec<CpuId>,
    last: usize,
    disorder: Option<usize>,
    mixed: Option<String>,
}

#[derive(Clone, Debug, Hash)]
struct Owed {
    text: Arc<str>,
    whole: bool,
}

/// What is wrong with the wire.
pub(super) enum Fault {
    /// Bytes of two CPUs make one line that is no record.
    Mixed(String),
    /// A record does not appear whole.
    Missing(String),
    /// A record appears after one that was stored later.
    Disorder(String),
}

impl Console {
    /// A record is stored that the console has to show.
    pub(super) fn owe(&mut self, text: Arc<str>) {
        self.owed.push(Owed { text, whole: false });
    }

    /// Bytes come over the wire.
    pub(super) fn show(&mut self, cpu: CpuId, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                byte => {
                    self.line.push(*byte);
                    if !self.writers.contains(&cpu) {
                        self.writers.push(cpu);
                    }
                }
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let writers = std::mem::take(&mut self.writers);
        let is_line = |owed: &&Owed| owed.text.as_bytes() == line;
        // A text that was stored twice is owed twice.
        if let Some(at) = self
            .owed
            .iter()
            .position(|owed| is_line(&owed) && !owed.whole)
        {
            self.owed[at].whole = true;
            if at < self.last {
                self.disorder.get_or_insert(at);
            }
            self.last = self.last.max(at);
        } else if self.owed.iter().find(is_line).is_none() && writers.len() > 1 {
            self.mixed
                .get_or_insert(String::from_utf8_lossy(&line).into_owned());
        }
    }

    /// What is wrong, if the last flush ends here.
    pub(super) fn fault(&self) -> Option<Fault> {
        if let Some(line) = &self.mixed {
            return Some(Fault::Mixed(line.clone()));
        }
        if let Some(owed) = self.owed.iter().find(|owed| !owed.whole) {
            return Some(Fault::Missing(owed.text.to_string()));
        }
        self.disorder
            .map(|at| Fault::Disorder(self.owed[at].text.to_string()))
    }
}
