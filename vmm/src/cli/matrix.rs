//! `vmm matrix`.

mod cell;
mod journal;
mod merge;
mod page;
mod show;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use cell::{Job, Lost};
use journal::{Heading, Journal};
pub(super) use merge::{Args as ReportArgs, main as report};
use page::Page;
use sha2::{Digest as _, Sha256};
use show::{Show, Work};
use vmm_core::evidence::Evidence;
use vmm_core::matrix::{By, Cell, Filter, Kind, Matrix, Parts, Plan, Shard};
use vmm_core::model;
use vmm_core::oracle::judge;
use vmm_core::report::{
    About, Came, CellReport, FORMAT, Parted, Report, Run, Standing, html, junit, ktap, of_kernel,
    summary, tap13,
};
use vmm_core::story::Story;

use super::interrupt::Interrupt;
use super::judge::{names, read};
use super::run::swap;
use super::stdout::print;
use super::{Exit, scenarios, tell};
use crate::lab::{self, Ground, Place, Stopper, Wish};
use crate::subject::linux;
use crate::subject::payload::{self, Swap};

/// What is run where no file is named.
const DEFAULT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/matrix.toml"));

/// The report in the folder of a matrix.
const REPORT: &str = "report.json";

/// Run many scenarios on many subjects, and say what came of it
#[derive(clap::Args)]
#[command(after_help = Exit::TABLE)]
pub(super) struct Args {
    /// What is run (docs/matrix.md); the project's own set if not given
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Say what would be run, and what cannot be, and run nothing
    #[arg(long)]
    list: bool,
    /// Run those cells alone that have this in their name, or AXIS=VALUE (scenario, subject, by, cpus, pseudo-nmi, stop); with commas
    /// between: either; given twice: both; with `!` before it: not those
    #[arg(long, value_name = "WHICH")]
    filter: Vec<Filter>,
    /// Of every set only as many cells as have every value of an axis together with every one of another
    #[arg(long)]
    pairwise: bool,
    /// Run part I of N, alike on every machine and shared out by cost
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Run so many cells at once; as many as there are processors if not given, but at most 2 in the lab, which has so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Begin no further cell when one is not as it should be
    #[arg(long)]
    fail_fast: bool,
    /// Run each cell so many times, each with the next seed; one whose verdicts differ is flaky
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
    /// Give up a run after so many seconds: what is not known by then is inconclusive
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Where the first run of a cell begins to draw
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Keep the evidence of all runs, and what is finished
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with what an earlier run has kept
    #[arg(long, requires = "out")]
    resume: bool,
    /// Run all that fits on this kernel (linux:PATH, or the name of a guest), and say what its stop path does right and wrong
    #[arg(long, value_name = "PATH")]
    kernel: Option<String>,
    /// Whatever is expected, let no rule be broken; so it is with --kernel
    #[arg(long)]
    strict: bool,
    /// With --kernel let that be broken which its protocol is expected to break
    #[arg(long, requires = "kernel", conflicts_with = "strict")]
    no_strict: bool,
    /// Answer `git bisect run`: 0 if nothing is broken, 1 if a rule is, 125 if that cannot be told
    #[arg(long, requires = "kernel", conflicts_with = "no_strict")]
    bisect: bool,
    /// Judge the kernel by the table of this protocol, whatever its symbols say
    #[arg(long = "as", value_name = "PROTOCOL", requires = "kernel")]
    judged_as: Option<String>,
    /// Where a stopping CPU of the kernel acks, whatever its symbols say
    #[arg(long, value_name = "WORD", requires = "kernel")]
    ack: Option<String>,
    /// The kernel's vmlinux
    #[arg(long, value_name = "FILE", requires = "kernel")]
    vmlinux: Option<PathBuf>,
    /// The payload, where it shall not be looked for
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// Have the payload swap step N of its handler and the next one (crash:N, plain:N) wherever its protocol has them, and see which
    /// cells notice
    #[arg(long, value_name = "STEP", value_parser = swap)]
    swap: Option<Swap>,
    /// Write the report as a page of HTML, on which each cell opens to its story
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the result for a machine
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Print no line a cell
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// KTAP, as the kernel's own tests print it
    Ktap,
    /// JUnit's XML
    Junit,
    /// JSON, by docs/matrix.schema.json
    Json,
    /// TAP 13
    Tap13,
}

impl Args {
    fn is_strict(&self) -> bool {
        self.strict || self.kernel.is_some() && !self.no_strict
    }

    /// What a run of a kernel is told of it.
    fn of_linux(&self) -> Vec<String> {
        let vmlinux = self.vmlinux.as_ref().map(|path| path.display().to_string());
        let options = [
            ("--vmlinux", &vmlinux),
            ("--as", &self.judged_as),
            ("--ack", &self.ack),
        ];
        let given = options.into_iter().filter_map(|(option, value)| {
            let value = value.clone()?;
            Some([option.to_owned(), value])
        });
        given.flatten().collect()
    }
}

pub(super) fn main(args: &Args, wish: Wish) -> Exit {
    let exit = matrix(args, wish).unwrap_or_else(|error| {
        eprintln!("vmm: {error}");
        Exit::HostOrUsage
    });
    match exit {
        // What git would take for "bad" is trouble of ours.
        Exit::HostOrUsage | Exit::CannotRunHere if args.bisect => Exit::Untold,
        exit => exit,
    }
}

fn matrix(args: &Args, wish: Wish) -> Result<Exit, String> {
    if args.repeat > 1 && args.out.is_none() {
        return Err("--repeat needs --out: where runs part, their evidence tells".to_owned());
    }
    let plan = planned(args)?;
    if args.list {
        list(args, &plan);
        return Ok(Exit::Expected);
    }
    check(args, &plan)?;
    let heading = heading(args, &plan)?;
    let page = args.report.as_deref().map(Page::open).transpose()?;
    // A page tells from the evidence, which has to lie somewhere till then.
    let lent = (page.is_some() && args.out.is_none())
        .then(tempfile::tempdir)
        .transpose()
        .map_err(|error| format!("cannot make a folder for the evidence: {error}"))?;
    let folder = match &lent {
        Some(lent) => Some(lent.path()),
        None => args.out.as_deref(),
    };
    let (mut journal, kept) = match &args.out {
        Some(out) => {
            let (journal, runs) = Journal::open(out, &heading, args.resume)?;
            (Some(journal), runs)
        }
        None => (None, BTreeMap::new()),
    };
    let mut performance = Performance {
        args,
        plan: &plan,
        folder,
        runs: kept,
    };
    let mut end = performance.perform(wish, &mut journal);
    let report = performance.report(about(args));
    if let Some(journal) = &journal
        && let Err(why) = journal.keep(REPORT, &json(&report))
        && matches!(end, End::Done)
    {
        end = End::Trouble(why);
    }
    tell_all(args.format, &report)?;
    if args.kernel.is_some() && args.format.is_none() {
        print(&of_kernel(&report));
    }
    if let (Some(page), Some(folder)) = (page, folder)
        && let Err(why) = page.write(&html(&report, &|cell, run| story(folder, cell, run)))
        && matches!(end, End::Done)
    {
        end = End::Trouble(why);
    }
    match end {
        End::Done if args.bisect => Ok(match report.bisect() {
            0 => Exit::Expected,
            1 => Exit::Surprise,
            _ => Exit::Untold,
        }),
        End::Done => Ok(exit(&report)),
        End::Signal(signal) => {
            tell(&kept_words(args, &report, "ended by a signal"));
            Ok(Exit::Signal(signal))
        }
        End::Trouble(why) => Err(kept_words(args, &report, &why)),
    }
}

fn name(args: &Args) -> String {
    match &args.file {
        Some(file) => file.display().to_string(),
        None => "tests/matrix.toml".to_owned(),
    }
}

fn about(args: &Args) -> About {
    About {
        matrix: name(args),
        strict: args.is_strict(),
        shard: args.shard.map(|shard| shard.to_string()),
        repeat: args.repeat,
    }
}

/// The cells that are wanted.
fn planned(args: &Args) -> Result<Plan, String> {
    let text = match &args.file {
        Some(file) => fs::read_to_string(file)
            .map_err(|error| format!("cannot read {}: {error}", file.display()))?,
        None => DEFAULT.to_owned(),
    };
    let known: Vec<&str> = scenarios::known().collect();
    let mut matrix =
        Matrix::parse(&name(args), &text, &known).map_err(|error| error.to_string())?;
    if let Some(kernel) = &args.kernel {
        matrix = matrix.of_kernel(kernel.strip_prefix("linux:").unwrap_or(kernel));
        if matrix.sets.is_empty() {
            return Err(format!("{} has nothing for a kernel in it", name(args)));
        }
    }
    let parts = Parts {
        family: &scenarios::family,
        fits: &|kind, scenario| {
            let unfit = match kind {
                Kind::Model => model::fits(scenario).err().map(|unfit| unfit.to_string()),
                Kind::Payload => payload::check(scenario)
                    .err()
                    .map(|unfit| unfit.to_string()),
                Kind::Linux => linux::check(scenario).err().map(|unfit| unfit.to_string()),
            };
            unfit.map_or(Ok(()), Err)
        },
    };
    let mut plan = matrix
        .plan(&parts, args.pairwise)
        .map_err(|error| format!("{}: {error}", name(args)))?;
    let all = plan.cells.len();
    plan.cells
        .retain(|cell| args.filter.iter().all(|filter| filter.wants(cell)));
    if plan.cells.is_empty() {
        return Err(format!(
            "the matrix is empty: --filter wants none of its {all} cells; --list says their names"
        ));
    }
    if let Some(shard) = args.shard {
        plan.cells = shard.take(plan.cells);
        if plan.cells.is_empty() {
            return Err(format!(
                "the matrix is empty: it has no cell for part {shard}"
            ));
        }
    }
    Ok(plan)
}

/// What is missing is said before anything runs.
fn check(args: &Args, plan: &Plan) -> Result<(), String> {
    for cell in &plan.cells {
        let missing = Job { cell, run: 1 }.needs(args, None);
        missing.map_err(|why| format!("{}: {why}", cell.name()))?;
    }
    Ok(())
}

fn list(args: &Args, plan: &Plan) {
    for cell in &plan.cells {
        let expected = match &cell.by {
            _ if args.is_strict() => "nothing may be broken".to_owned(),
            By::Protocol(protocol) => {
                format!("{} broken", names(&cell.scenario.expected(protocol.name)))
            }
            By::Kernel(_) => "by the kernel's protocol".to_owned(),
        };
        print(&format!("{:<64} {expected}\n", cell.name()));
    }
    let cost: u64 = plan.cells.iter().map(Cell::cost).sum();
    let linux = plan.cells.iter().filter(|cell| cell.kind == Kind::Linux);
    print(&format!(
        "{} cells, {} of them Linux; some {} s of one processor\n{}\n",
        plan.cells.len(),
        linux.count(),
        cost.div_ceil(10),
        plan.left_out_text()
    ));
    for coverage in &plan.coverage {
        print(&format!("{coverage}\n"));
    }
}

/// What a journal is of.
fn heading(args: &Args, plan: &Plan) -> Result<Heading, String> {
    let mut files = BTreeMap::new();
    if args.out.is_some() {
        for cell in &plan.cells {
            let needs = Job { cell, run: 1 }.needs(args, None)?;
            for path in needs.into_iter().flat_map(|(_, needs)| needs.inputs) {
                let name = path.display().to_string();
                if let std::collections::btree_map::Entry::Vacant(vacant) = files.entry(name) {
                    vacant.insert(hash_of(&path)?);
                }
            }
        }
    }
    let cells = plan.cells.iter().map(|cell| {
        let hash = hex(&Sha256::digest(cell.scenario.to_string()));
        (cell.name(), hash)
    });
    Ok(Heading {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        matrix: name(args),
        shard: args.shard.map(|shard| shard.to_string()),
        strict: args.is_strict(),
        repeat: args.repeat,
        seed: args.seed,
        swap: args.swap.map(|swap| swap.to_string()),
        cells: cells.collect(),
        files,
    })
}

fn hash_of(path: &Path) -> Result<String, String> {
    let bytes =
        fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a matrix ended.
enum End {
    /// All that was to be run was.
    Done,
    /// Somebody ended it.
    Signal(i32),
    /// It could not go on; why.
    Trouble(String),
}

/// A matrix that is being run.
struct Performance<'a> {
    args: &'a Args,
    plan: &'a Plan,
    /// Where its evidence goes, if anywhere.
    folder: Option<&'a Path>,
    /// What is finished of each cell, by its name.
    runs: BTreeMap<String, Vec<Run>>,
}

impl<'a> Performance<'a> {
    /// What is still to be run: the costly cells first, so that the last ones to end are short.
    fn jobs(&self) -> VecDeque<Job<'a>> {
        let mut jobs: Vec<Job<'a>> = Vec::new();
        for cell in &self.plan.cells {
            let kept = self.runs.get(&cell.name());
            let done =
                |run: &u64| kept.is_some_and(|runs| runs.iter().any(|kept| kept.run == *run));
            let left = (1..=self.args.repeat).filter(|run| !done(run));
            jobs.extend(left.map(|run| Job { cell, run }));
        }
        jobs.sort_by_key(|job| std::cmp::Reverse(job.cell.cost()));
        jobs.into()
    }

    fn perform(&mut self, wish: Wish, journal: &mut Option<Journal>) -> End {
        let jobs = self.jobs();
        if jobs.is_empty() {
            return End::Done;
        }
        let stopper = Stopper::default();
        let interrupt = match Interrupt::watch() {
            Ok(interrupt) => interrupt,
            Err(error) => return End::Trouble(format!("cannot watch for signals: {error}")),
        };
        let stops = stopper.clone();
        let _watching = interrupt.calls(Box::new(move |signal| stops.stop(signal)));
        let (ground, workers) = match self.ground(wish, &jobs) {
            Ok(found) => found,
            Err(why) => return End::Trouble(why),
        };
        let work = Work {
            runs: self.plan.cells.len() * self.args.repeat as usize,
            done: self.runs.values().map(Vec::len).sum(),
            cost: jobs.iter().map(|job| job.cell.cost()).sum(),
        };
        let show = Show::new(
            self.args.quiet,
            self.args.format.is_some(),
            self.args.is_strict(),
            &work,
        );
        let trouble = self.work(jobs, workers, ground.as_ref(), &stopper, &show, journal);
        show.end();
        match (stopper.asked(), trouble) {
            (_, Some(why)) => End::Trouble(why),
            (Some(signal), None) => End::Signal(signal),
            (None, None) => End::Done,
        }
    }

    /// Where the cells run, if any wants KVM, and how many at once.
    fn ground(
        &self,
        wish: Wish,
        jobs: &VecDeque<Job<'_>>,
    ) -> Result<(Option<Ground>, usize), String> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let workers = |most: usize| {
            let asked = self.args.jobs.map(usize::from);
            asked.unwrap_or(processors.min(most)).min(jobs.len())
        };
        let mut memory = 0;
        for job in jobs {
            if let Some((_, needs)) = job.needs(self.args, self.folder)? {
                memory = memory.max(lab::memory_of(&needs));
            }
        }
        if memory == 0 {
            return Ok((None, workers(usize::MAX)));
        }
        match Place::choose(wish, || crate::host::probe().map(drop)) {
            Ok(Place::Here) => Ok((Some(Ground::Here), workers(usize::MAX))),
            Ok(Place::Lab) => {
                let workers = workers(lab::PROCESSORS);
                let ground = Ground::lab(memory * workers as u64);
                Ok((Some(ground.map_err(|error| error.to_string())?), workers))
            }
            Err(lack) => Err(format!("{lack}, and --no-lab keeps it out of the lab")),
        }
    }

    /// Has workers do the jobs; why they could not go on, if so.
    fn work(
        &mut self,
        jobs: VecDeque<Job<'a>>,
        workers: usize,
        ground: Option<&Ground>,
        stopper: &Stopper,
        show: &Show,
        journal: &mut Option<Journal>,
    ) -> Option<String> {
        let (args, folder) = (self.args, self.folder);
        let jobs = Mutex::new(jobs);
        let (report, reports) = mpsc::channel();
        let mut trouble: Option<String> = None;
        thread::scope(|scope| {
            for _ in 0..workers {
                let (report, jobs) = (report.clone(), &jobs);
                scope.spawn(move || {
                    while let Some(job) = next(jobs) {
                        show.begins(&job.cell.name());
                        let came = job.perform(args, folder, ground, stopper);
                        // Whoever reads goes on reading until all have ended.
                        let _ = report.send((job, came));
                    }
                });
            }
            drop(report);
            for (job, came) in reports {
                let name = job.cell.name();
                let run = match came {
                    Ok(run) => run,
                    Err(lost) => {
                        queue(&jobs).clear();
                        show.ends(&name, 0, None);
                        if let Lost::Ground(error) = lost {
                            trouble.get_or_insert(error.to_string());
                        }
                        continue;
                    }
                };
                if let Some(journal) = journal
                    && let Err(why) = journal.finished(&name, &run)
                {
                    // What is not kept is not finished.
                    trouble.get_or_insert(why);
                    queue(&jobs).clear();
                    continue;
                }
                let runs = self.runs.entry(name.clone()).or_default();
                runs.push(run);
                runs.sort_by_key(|run| run.run);
                let cell = self.cell(job.cell);
                let finished = cell.runs.len() as u64 == args.repeat;
                show.ends(&name, job.cell.cost(), finished.then_some(&cell));
                if args.fail_fast && !cell.standing.is_good() && cell.standing != Standing::NotRun {
                    queue(&jobs).clear();
                }
            }
        });
        trouble
    }

    /// How a cell stands.
    fn cell(&self, cell: &Cell) -> CellReport {
        let runs = self.runs.get(&cell.name()).cloned().unwrap_or_default();
        CellReport::new(cell, runs, self.args.repeat, self.args.is_strict())
    }

    fn report(&self, about: About) -> Report {
        let cells = self.plan.cells.iter().map(|cell| {
            let mut cell = self.cell(cell);
            if cell.standing == Standing::Flaky {
                cell.parted = self.parted(&cell);
            }
            cell
        });
        Report::new(about, self.plan, cells.collect())
    }

    /// Where two runs of a cell with other verdicts part, by their evidence.
    fn parted(&self, cell: &CellReport) -> Option<Parted> {
        let out = self.args.out.as_ref()?;
        let (first, second) = cell.differing()?;
        let evidence = |run: &Run| -> Option<Evidence> {
            read(&out.join(run.evidence.as_ref()?))
                .inspect_err(|error| tell(error))
                .ok()
        };
        Parted::of(
            [first.run, second.run],
            &evidence(first)?,
            &evidence(second)?,
        )
    }
}

/// The story of a run whose evidence lies in this folder.
fn story(folder: &Path, cell: &CellReport, run: &Run) -> Result<Option<Story>, String> {
    let Came::Judged(_) = run.came else {
        return Ok(None);
    };
    let evidence = read(&folder.join(cell::evidence_of(&cell.name, run.run)))?;
    Ok(Some(Story::of(&evidence, &judge(&evidence))))
}

fn queue<'a, 'j>(jobs: &'a Mutex<VecDeque<Job<'j>>>) -> MutexGuard<'a, VecDeque<Job<'j>>> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next<'j>(jobs: &Mutex<VecDeque<Job<'j>>>) -> Option<Job<'j>> {
    queue(jobs).pop_front()
}

fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report).expect("a report is plain data") + "\n"
}

fn tell_all(format: Option<Format>, report: &Report) -> Result<(), String> {
    let text = match format {
        None => summary(report),
        Some(Format::Ktap) => ktap(report),
        Some(Format::Tap13) => tap13(report),
        Some(Format::Junit) => {
            junit(report).map_err(|error| format!("cannot make XML of it: {error}"))?
        }
        Some(Format::Json) => json(report),
    };
    print(&text);
    Ok(())
}

/// Why it ended before its time, and what is left of it.
fn kept_words(args: &Args, report: &Report, why: &str) -> String {
    let runs = report.cells.iter().flat_map(|cell| &cell.runs).count();
    let all = report.cells.len() * report.repeat as usize;
    let kept = match &args.out {
        Some(out) => format!(
            "are finished and kept in {}; the same with --resume goes on",
            out.display()
        ),
        None => "were finished; --out DIR keeps them".to_owned(),
    };
    format!("{why}; {runs} of {all} runs {kept}")
}

fn exit(report: &Report) -> Exit {
    let any = |standings: &[Standing]| standings.iter().any(|standing| report.count(*standing) > 0);
    if any(&[Standing::Surprise, Standing::Flaky, Standing::Inconclusive]) {
        Exit::Surprise
    } else if any(&[Standing::Failed, Standing::NotRun]) {
        Exit::HostOrUsage
    } else if any(&[Standing::AsExpected]) {
        Exit::Expected
    } else {
        Exit::CannotRunHere
    }
}
