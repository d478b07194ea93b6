//! examples/slurm.sh as its head says to use it, on a cluster of Slurm's with one node: this machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::{Lab, Outcome, Running, Vmm, root};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};

use crate::SharedLab;

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    vec![
        lab.trial("slurm::an_array_with_a_task_queued_again", array)
            .with_ignored_flag(true),
    ]
}

const MATRIX: &str = r#"format = 1
[[set]]
scenarios = ["console-locked", "idle-crash"]
subjects = ["payload"]
"#;

/// A cluster of one node; dropped, its daemons are killed.
struct Cluster {
    folder: tempfile::TempDir,
    _daemons: [Running; 3],
}

impl Cluster {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        for name in ["munge", "state", "spool"] {
            fs::create_dir(at.join(name)).unwrap();
        }
        fs::write(at.join("munge/key"), [7; 128]).unwrap();
        fs::write(at.join("slurm.conf"), configuration(at)).unwrap();
        let keeper = "chmod 600 munge/key; chmod 755 munge; exec munged --foreground --force --socket=$PWD/munge/socket \
            --key-file=$PWD/munge/key --pid-file=$PWD/munge/pid --seed-file=$PWD/munge/seed --log-file=$PWD/munge/log";
        let keeper = daemon(at, keeper, "Created socket");
        let controller = daemon(
            at,
            "exec slurmctld -D -f $PWD/slurm.conf",
            "Running as primary controller",
        );
        let node = daemon(
            at,
            "exec slurmd -D -N node -f $PWD/slurm.conf",
            "slurmd started",
        );
        Self {
            folder,
            _daemons: [node, controller, keeper],
        }
    }

    /// A command of Slurm's.
    fn command(&self, lab: &Lab, program: &str, arguments: &[&str]) -> Outcome {
        let programs = std::env::var("PATH").unwrap();
        let programs = format!("{}:{programs}", root().join("target/release").display());
        lab.lend(Vmm::at(Path::new(program), arguments))
            .within(self.folder.path())
            .env("PATH", programs)
            .env("SLURM_CONF", self.folder.path().join("slurm.conf"))
            .run()
            .exits(0)
    }
}

fn daemon(at: &Path, script: &str, ready: &str) -> Running {
    let script = format!("exec 2>&1; {script}");
    let mut running = Vmm::at(Path::new("/bin/sh"), ["-c", script.as_str()])
        .within(at)
        .start();
    running.wait_for(ready);
    running
}

/// All of it listens on loopback alone.
fn configuration(at: &Path) -> String {
    let free = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap().port(), listener)
    };
    let ((controller, _one), (node, _other)) = (free(), free());
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim().split('.').next().unwrap();
    let at = at.display();
    format!(
        "ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge/socket
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/state/pid
SlurmdPidFile={at}/spool/pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
MailProg=/bin/true
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8192
PartitionName=all Nodes=node Default=YES
"
    )
}

fn array(lab: &Lab) {
    let cluster = Cluster::start();
    let at = cluster.folder.path();
    fs::write(at.join("m.toml"), MATRIX).unwrap();
    fs::create_dir(at.join("kept")).unwrap();
    let script = root().join("examples/slurm.sh");
    let script = script.to_str().unwrap();
    let submitted = cluster.command(lab, "sbatch", &["--parsable", script, "kept", "m.toml"]);
    let job = submitted.stdout.trim().to_owned();
    // It is queued again as soon as it has something to lose: the head of its journal, and one run.
    let journal = at.join("kept/part-1/journal.jsonl");
    let mut tail = Command::new("timeout")
        .args(["400", "tail", "-n", "+1", "-F"])
        .arg(&journal)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let lines = lines.take(2).filter(Result::is_ok).count();
    assert_eq!(lines, 2, "no run of the first task was finished");
    // It follows for ever; `timeout` passes that on.
    kill_process(Pid::from_child(&tail), Signal::TERM).unwrap();
    tail.wait().unwrap();
    cluster.command(lab, "scontrol", &["requeue", &format!("{job}_1")]);
    let merge = "vmm report merge kept/part-* --out kept/whole";
    cluster.command(
        lab,
        "sbatch",
        &[
            "--wait",
            "--output=merged",
            &format!("--dependency=afterany:{job}"),
            &format!("--wrap={merge}"),
        ],
    );
    let merged = fs::read_to_string(at.join("merged")).unwrap();
    assert!(
        merged.contains("12 cells: 12 as expected"),
        "{merged}\n{:?}",
        fs::read_to_string(at.join(format!("slurm-{job}_1.out")))
    );
    let lines = fs::read_to_string(&journal).unwrap();
    let mut cells: Vec<_> = lines.lines().skip(1).collect();
    cells.sort_unstable();
    cells.dedup();
    assert_eq!(cells.len(), 3, "{lines}");
    assert_eq!(lines.lines().count(), 4, "nothing is run twice: {lines}");
}
