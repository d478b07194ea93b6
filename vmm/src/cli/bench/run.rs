//! All figures, ours and the peer's in turn: A B A B, so that whatever else loads the machine loads both.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};

use super::table::{Figure, Table};
use super::{All, Args, GUEST_MEMORY, What, bare, child, memory, quiesce, stub};
use crate::cli::Exit;
use child::Running;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Error {
    #[error(transparent)]
    Bare(#[from] bare::Error),
    #[error(transparent)]
    Child(#[from] child::Error),
    #[error(transparent)]
    Quiesce(#[from] quiesce::Error),
    #[error("{why}; the VMM complained:\n{complaints}")]
    Stub {
        why: stub::Error,
        complaints: String,
    },
    #[error("cannot make the file of a guest: {0}")]
    Guest(io::Error),
    #[error("cannot tell how much memory process {process} has: {source}")]
    Memory { process: u32, source: io::Error },
    #[error("process {0} has no mapping that could be its guest's RAM")]
    NoRam(u32),
    #[error("the bare VM told no time but {0:?}")]
    Bareness(String),
    #[error("cannot print: {0}")]
    Print(io::Error),
}

pub(in crate::cli) fn run(args: &Args) -> Result<Exit, Error> {
    let mut out = io::stdout().lock();
    match &args.what {
        What::All(all) => {
            let figures = Bench::new(all)?.figures()?;
            write!(out, "{}", Table(&figures))
        }
        What::Bare => writeln!(out, "{}", bare::measure()?.as_nanos()),
    }
    .map_err(Error::Print)?;
    Ok(Exit::Expected)
}

/// A file of a few instructions.
struct Flat(File);

impl Flat {
    fn new(code: &[u32]) -> Result<Self, Error> {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC)
            .map_err(|error| Error::Guest(error.into()))?;
        let mut file = File::from(fd);
        let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.write_all(&bytes).map_err(Error::Guest)?;
        Ok(Self(file))
    }

    /// Where a child finds it.
    fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

/// What is booted.
struct Boot<'a> {
    kernel: &'a Path,
    flat: bool,
    initrd: Option<&'a Path>,
    cmdline: &'a str,
    cpus: usize,
}

/// By whom.
#[derive(Clone, Copy)]
enum By<'a> {
    Us,
    /// By QEMU, with KVM as its accelerator.
    Peer(&'a Path),
}

impl Boot<'_> {
    fn command(&self, by: By<'_>) -> Command {
        let memory = format!("{}M", GUEST_MEMORY >> 20);
        let cpus = self.cpus.to_string();
        let mut command = match by {
            By::Us => {
                let mut command = Command::new("/proc/self/exe");
                command.args([
                    "boot",
                    "--memory",
                    &memory,
                    "--cpus",
                    &cpus,
                    "--cmdline",
                    self.cmdline,
                ]);
                if self.flat {
                    command.args(["--format", "flat"]);
                }
                command.arg("--kernel").arg(self.kernel);
                if let Some(initrd) = self.initrd {
                    command.arg("--initrd").arg(initrd);
                }
                return command;
            }
            By::Peer(folder) => {
                let mut command = Command::new(folder.join("ld.so"));
                command
                    .arg("--library-path")
                    .arg(folder)
                    .arg(folder.join("qemu-system-aarch64"));
                command
            }
        };
        command.args([
            "-M",
            "virt,gic-version=3",
            "-cpu",
            "host",
            "-accel",
            "kvm",
            "-nographic",
            "-nic",
            "none",
        ]);
        command.args([
            "-no-reboot",
            "-m",
            &memory,
            "-smp",
            &cpus,
            "-append",
            self.cmdline,
        ]);
        command.arg("-kernel").arg(self.kernel);
        if let Some(initrd) = self.initrd {
            command.arg("-initrd").arg(initrd);
        }
        command
    }
}

struct Bench<'a> {
    args: &'a All,
    say: Flat,
    reads: Flat,
}

/// How often the vCPUs are brought out of the guest in a run.
const QUIESCES: usize = 10;

/// How often a debugger's stub is asked for something.
const ANSWERS: u32 = 500;

/// The turns of a loop that it steps through.
const TURNS: u32 = 2000;

/// A scenario of 4 CPUs all of which stop at once, so that nothing of it is the kernel's own waiting.
const VERDICT: &str = "idle-crash";

/// What a run of one figure gives.
type Measure<'a> = dyn Fn(By<'_>) -> Result<f64, Error> + 'a;

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl<'a> Bench<'a> {
    fn new(args: &'a All) -> Result<Self, Error> {
        Ok(Self {
            args,
            say: Flat::new(bare::SAY)?,
            reads: Flat::new(bare::READS)?,
        })
    }

    fn figures(&self) -> Result<Vec<Figure>, Error> {
        let mut figures = Vec::new();
        if self.wanted("start") {
            figures.extend(self.start()?);
        }
        let mut take = |figure: Figure, measured: &dyn Fn(Figure) -> Result<Figure, Error>| {
            if self.wanted(&figure.name) {
                eprintln!("vmm: {}", figure.name);
                figures.push(measured(figure)?);
            }
            Ok::<_, Error>(())
        };
        take(
            Figure::new("resident beyond the guest's pages, Linux, 4 vCPUs", "MiB")
                .should_be("at most 8"),
            &|figure| self.compare(figure, &|by| self.resident(by)),
        )?;
        take(Figure::new("MMIO exits, UARTFR read", "1/s"), &|figure| {
            self.compare(figure, &|by| self.exits(by))
        })?;
        for vcpus in [4, 64] {
            let name = format!("kick to quiesce, {vcpus} spinning vCPUs");
            take(Figure::new(name, "ms"), &|figure| {
                self.quiesce(figure, vcpus)
            })?;
        }
        take(Figure::new("debugger: a register read", "1/s"), &|figure| {
            self.compare(figure, &|by| {
                self.debugged(by, |debugger| debugger.round_trips(ANSWERS))
            })
        })?;
        take(Figure::new("debugger: a step", "1/s"), &|figure| {
            self.compare(figure, &|by| {
                self.debugged(by, |debugger| debugger.steps(ANSWERS))
            })
        })?;
        take(
            Figure::new("debugger: a step within a range", "1/s").should_be("at least 1000"),
            &|mut figure| {
                for _ in 0..self.args.runs {
                    let rate = self.debugged(By::Us, |debugger| debugger.range(TURNS));
                    figure.ours.push(rate?);
                }
                Ok(figure)
            },
        )?;
        for (cpus, options, name) in [
            (1, "", "Linux to user space, 1 vCPU"),
            (1, "quiet ", "Linux to user space, 1 vCPU, quiet"),
            (2, "", "Linux to user space, 2 vCPUs"),
            (2, "quiet ", "Linux to user space, 2 vCPUs, quiet"),
        ] {
            take(
                Figure::new(name, "s").should_be("0.8 of QEMU's"),
                &|figure| self.compare(figure, &|by| self.user_space(by, cpus, options)),
            )?;
        }
        for (kernel, name, target) in [
            (&self.args.built, "Linux to its verdict, built", "at most 6"),
            (
                &self.args.linux,
                "Linux to its verdict, stock",
                "at most 15",
            ),
        ] {
            if self.wanted(name) {
                eprintln!("vmm: {name}");
                figures.extend(self.verdict(kernel, name, target)?);
            }
        }
        Ok(figures)
    }

    fn wanted(&self, name: &str) -> bool {
        self.args
            .only
            .as_ref()
            .is_none_or(|only| name.contains(only))
    }

    /// Ours and the peer's in turn.
    fn compare(&self, mut figure: Figure, measure: &Measure<'_>) -> Result<Figure, Error> {
        for _ in 0..self.args.runs {
            figure.ours.push(measure(By::Us)?);
            if let Some(folder) = &self.args.peer {
                figure.peer.push(measure(By::Peer(folder))?);
            }
        }
        Ok(figure)
    }

    /// From the exec of a VMM to its guest's first word, and what of it is not the VM's and the vCPU's creation.
    fn start(&self) -> Result<Vec<Figure>, Error> {
        eprintln!("vmm: start");
        let mut bare = Figure::new("bare VM and vCPU, created and run to the first exit", "ms");
        let mut flat = Figure::new("start: exec to the first byte of a flat guest", "ms");
        let mut payload = Figure::new("start: exec to the first byte of the payload", "ms");
        for _ in 0..self.args.runs {
            bare.ours.push(self.bare()?);
            flat.ours
                .push(self.first_byte(By::Us, &self.say.path(), true)?);
            payload
                .ours
                .push(self.first_byte(By::Us, &self.args.payload, false)?);
            if let Some(folder) = &self.args.peer {
                flat.peer
                    .push(self.first_byte(By::Peer(folder), &self.say.path(), true)?);
            }
        }
        let above = |name, figure: &Figure| {
            let pairs = figure.ours.iter().zip(&bare.ours);
            let mut above = Figure::new(name, "ms").should_be("at most 50");
            above.ours = pairs.map(|(start, bare)| start - bare).collect();
            above
        };
        let flat_above = above("the flat guest's, above bare creation", &flat);
        let payload_above = above(
            "the payload's, above bare creation, its own first steps included",
            &payload,
        );
        Ok(vec![bare, flat, flat_above, payload, payload_above])
    }

    fn first_byte(&self, by: By<'_>, kernel: &Path, flat: bool) -> Result<f64, Error> {
        let boot = Boot {
            kernel,
            flat,
            initrd: None,
            cmdline: "",
            cpus: 1,
        };
        Ok(milliseconds(Running::start(boot.command(by))?.until("")?))
    }

    /// In a process of its own, as any other.
    fn bare(&self) -> Result<f64, Error> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["bench", "bare"]);
        let mut running = Running::start(command)?;
        running.until("\n")?;
        let said = running.said();
        let nanoseconds = said
            .trim()
            .parse()
            .map_err(|_| Error::Bareness(said.clone()))?;
        Ok(milliseconds(Duration::from_nanos(nanoseconds)))
    }

    fn exits(&self, by: By<'_>) -> Result<f64, Error> {
        let boot = Boot {
            kernel: &self.reads.path(),
            flat: true,
            initrd: None,
            cmdline: "",
            cpus: 1,
        };
        let mut running = Running::start(boot.command(by))?;
        let begin = running.until("b")?;
        let end = running.until("e")?;
        Ok(f64::from(bare::COUNT) / (end - begin).as_secs_f64())
    }

    fn linux<'b>(&'b self, cmdline: &'b str, cpus: usize) -> Boot<'b> {
        Boot {
            kernel: &self.args.linux,
            flat: false,
            initrd: Some(&self.args.initrd),
            cmdline,
            cpus,
        }
    }

    /// Init's last word is on no command line, which a loud kernel repeats.
    fn user_space(&self, by: By<'_>, cpus: usize, options: &str) -> Result<f64, Error> {
        let cmdline = format!("console=ttyAMA0 panic=-1 {options}init.run=true");
        let mut running = Running::start(self.linux(&cmdline, cpus).command(by))?;
        Ok(running.until("init: exit 0")?.as_secs_f64())
    }

    /// From the exec to the verdict, and where the time goes.
    fn verdict(
        &self,
        kernel: &Path,
        name: &str,
        target: &'static str,
    ) -> Result<Vec<Figure>, Error> {
        // What `vmm run` prints when each part is over: the header of the trace, a call, and the line of the outcome.
        const PARTS: [(&str, &str); 3] = [
            ("boot to init's question", "time (us)"),
            ("from there to the stop", "calls crash_smp_send_stop"),
            ("the stop and the judging", "\nrepeat: "),
        ];
        let whole = format!("{name}, quiet, 4 vCPUs");
        let mut whole = Figure::new(whole, "s").should_be(target);
        let mut parts = PARTS.map(|(part, _)| Figure::new(format!("of that, {part}"), "s"));
        for seed in 0..self.args.runs {
            let mut command = Command::new("/proc/self/exe");
            command.args(["run", VERDICT, "--subject", "linux:built", "--kernel"]);
            command
                .arg(kernel)
                .arg("--initramfs")
                .arg(&self.args.initrd);
            command.args(["--seed", &seed.to_string()]);
            let mut running = Running::start(command)?;
            let mut before = Duration::ZERO;
            for ((_, words), figure) in PARTS.iter().zip(&mut parts) {
                let now = running.until(words)?;
                figure.ours.push((now - before).as_secs_f64());
                before = now;
            }
            whole.ours.push(before.as_secs_f64());
        }
        let mut figures = vec![whole];
        figures.extend(parts);
        Ok(figures)
    }

    /// What a debugger measures of a guest that stands before its first instruction.
    fn debugged(
        &self,
        by: By<'_>,
        measure: impl FnOnce(&mut stub::Debugger) -> Result<f64, stub::Error>,
    ) -> Result<f64, Error> {
        let boot = Boot {
            kernel: &self.say.path(),
            flat: true,
            initrd: None,
            cmdline: "",
            cpus: 1,
        };
        let socket = env::temp_dir().join(format!("vmm-bench-{}", std::process::id()));
        let place = format!("unix:{}", socket.display());
        let mut command = boot.command(by);
        match by {
            By::Us => command.args(["--gdb", &place, "--gdb-wait"]),
            By::Peer(_) => command.args(["-gdb", &format!("{place},server=on,wait=off"), "-S"]),
        };
        let mut guest = Running::start(command)?;
        let measured = stub::Debugger::at(&socket).and_then(|mut debugger| measure(&mut debugger));
        let measured = measured.map_err(|why| Error::Stub {
            why,
            complaints: guest.complaints(),
        })?;
        drop(guest);
        // Who was killed could not remove it.
        fs::remove_file(&socket).map_err(Error::Guest)?;
        Ok(measured)
    }

    fn resident(&self, by: By<'_>) -> Result<f64, Error> {
        let cmdline =
            "console=ttyAMA0 panic=-1 quiet init.run=\"echo $((6 * 7)) is up; sleep 1000000\"";
        let mut running = Running::start(self.linux(cmdline, 4).command(by))?;
        running.until("42 is up")?;
        let process = running.id();
        let smaps = fs::read_to_string(format!("/proc/{process}/smaps"));
        let smaps = smaps.map_err(|source| Error::Memory { process, source })?;
        let bytes = memory::beyond_guest(&smaps, GUEST_MEMORY).ok_or(Error::NoRam(process))?;
        Ok(bytes as f64 / f64::from(1 << 20))
    }

    fn quiesce(&self, mut figure: Figure, vcpus: usize) -> Result<Figure, Error> {
        let latencies = quiesce::latencies(vcpus, QUIESCES * self.args.runs)?;
        figure.ours = latencies.into_iter().map(milliseconds).collect();
        Ok(figure)
    }
}
