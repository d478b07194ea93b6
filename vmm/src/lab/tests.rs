//! Host and agent together over a socket pair, with shell scripts for verbs: all of the lab but QEMU and what needs root.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::agent::{self, Grounds};
use super::frame::{self, Ended, Frame, Hello, ToAgent, ToHost};
use super::run::{Needs, Prepared, Streams};
use super::session::{Patience, Session};
use super::{Error, wire};
use crate::deadline::Deadline;

const PATIENT: Patience = Patience {
    hello: Duration::from_secs(60),
    beat: Duration::from_secs(1),
    beats: 60,
};

/// A lab of this process, and the caller's folder.
struct Lab {
    session: Session,
    agent: JoinHandle<Result<(), agent::Error>>,
    /// The agent's end of the port, to cut it.
    port: UnixStream,
    folder: tempfile::TempDir,
    _of_agent: tempfile::TempDir,
    _in_time: Deadline,
}

impl Lab {
    fn new() -> Self {
        Self::with_memory(1 << 40)
    }

    fn with_memory(memory: u64) -> Self {
        let in_time = Deadline::set();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let of_agent = tempfile::tempdir().unwrap();
        let grounds = Grounds::new(of_agent.path(), None, memory).unwrap();
        let port = theirs.try_clone().unwrap();
        let writing = theirs.try_clone().unwrap();
        let agent = thread::spawn(move || agent::serve(theirs, writing, grounds));
        let session = Session::over(ours, None, PATIENT).unwrap();
        Self {
            session,
            agent,
            port,
            folder: tempfile::tempdir().unwrap(),
            _of_agent: of_agent,
            _in_time: in_time,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn prepare(&self, script: &str, needs: &Needs) -> Prepared {
        let args = ["sh", "-c", script].map(Into::into);
        let cwd = self.folder.path().canonicalize().unwrap();
        Prepared::verb(&args, needs, &cwd, Path::new("/bin/sh")).unwrap()
    }

    /// Runs a script to its end; how it ended, what it printed, and what it printed as errors.
    fn run(
        &self,
        script: &str,
        needs: &Needs,
        stdin: impl Read + Send + 'static,
    ) -> (Result<Ended, Error>, String, String) {
        let (stdout, stderr) = (Printed::default(), Printed::default());
        let streams = Streams {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout.clone()),
            stderr: Box::new(stderr.clone()),
        };
        let ended = self
            .session
            .start(self.prepare(script, needs), streams)
            .unwrap()
            .wait();
        (ended, stdout.text(), stderr.text())
    }
}

#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends when told to.
struct Until(Receiver<()>);

impl Read for Until {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(0)
    }
}

/// Takes nothing until told to.
struct Stuck(Receiver<()>, Printed);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until something holds that another process brings about.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "still not: {what}"
        );
        thread::yield_now();
    }
}

fn gone(process: &str) -> bool {
    !Path::new("/proc").join(process.trim()).exists()
}

fn needs(inputs: &[&str], outputs: &[&str]) -> Needs {
    let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect();
    Needs {
        inputs: paths(inputs),
        outputs: paths(outputs),
        stdin: true,
        debugger: false,
        memory: 0,
    }
}

#[test]
fn streams_and_the_exit_code_come_back() {
    let lab = Lab::new();
    let (ended, stdout, stderr) = lab.run(
        "read line; echo out $line; echo err >&2; exit 7",
        &needs(&[], &[]),
        "text\n".as_bytes(),
    );
    assert_eq!(
        (ended.unwrap(), stdout.as_str(), stderr.as_str()),
        (Ended::Exit(7), "out text\n", "err\n")
    );
}

#[test]
fn a_verb_that_dies_by_a_signal_says_so() {
    let (ended, ..) = Lab::new().run("kill -TERM $$", &needs(&[], &[]), io::empty());
    assert_eq!(ended.unwrap(), Ended::Signal(15));
}

#[test]
fn a_verb_that_crashes_says_so() {
    let (ended, ..) = Lab::new().run("kill -SEGV $$", &needs(&[], &[]), io::empty());
    let log = String::new();
    assert_eq!(ended.unwrap(), Ended::Crashed { signal: 11, log });
}

#[test]
fn more_bytes_than_any_window_pass_both_ways_in_order() {
    let text: String = (0..400_000).map(|line| format!("{line}\n")).collect();
    let (ended, stdout, _) = Lab::new().run("cat", &needs(&[], &[]), io::Cursor::new(text.clone()));
    assert_eq!(ended.unwrap(), Ended::Exit(0));
    assert!(stdout == text);
}

#[test]
fn a_caller_that_does_not_read_holds_up_its_own_verb_only() {
    let lab = Lab::new();
    let (go, stuck) = mpsc::channel();
    let printed = Printed::default();
    let streams = Streams {
        stdin: Box::new(io::empty()),
        stdout: Box::new(Stuck(stuck, printed.clone())),
        stderr: Box::new(io::sink()),
    };
    let flood = lab.prepare(
        "i=0; while [ $i -lt 40 ]; do head -c 65536 /dev/zero; i=$((i+1)); done",
        &needs(&[], &[]),
    );
    thread::scope(|scope| {
        let flood = scope.spawn(|| lab.session.start(flood, streams).unwrap().wait());
        for _ in 0..3 {
            let (ended, stdout, _) = lab.run("echo through", &needs(&[], &[]), io::empty());
            assert_eq!(
                (ended.unwrap(), stdout.as_str()),
                (Ended::Exit(0), "through\n")
            );
        }
        drop(go);
        assert_eq!(flood.join().unwrap().unwrap(), Ended::Exit(0));
    });
    assert_eq!(printed.text().len(), 40 * 65536);
}

#[test]
fn a_caller_that_reads_no_more_breaks_the_verb_s_pipe() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lab = Lab::new();
    let streams = Streams {
        stdin: Box::new(io::empty()),
        stdout: Box::new(Broken),
        stderr: Box::new(io::sink()),
    };
    let ended = lab
        .session
        .start(lab.prepare("exec yes", &needs(&[], &[])), streams)
        .unwrap()
        .wait();
    assert_eq!(ended.unwrap(), Ended::Signal(13));
}

#[test]
fn files_go_in_and_come_out() {
    let lab = Lab::new();
    fs::write(lab.path("in"), "content\n".repeat(100_000)).unwrap();
    fs::write(lab.path("undeclared"), "").unwrap();
    fs::write(lab.path("out"), "what was there before, and longer").unwrap();
    let script =
        "test ! -e undeclared && test ! -e missing && cat in > dir/copy && echo new > out && umask";
    fs::create_dir(lab.path("dir")).unwrap();
    let (ended, stdout, _) = lab.run(
        script,
        &needs(&["in", "missing"], &["dir/copy", "out"]),
        io::empty(),
    );
    assert_eq!(ended.unwrap(), Ended::Exit(0));
    assert!(fs::read(lab.path("in")).unwrap() == fs::read(lab.path("dir/copy")).unwrap());
    assert_eq!(fs::read_to_string(lab.path("out")).unwrap(), "new\n");
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let umask = status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))
        .unwrap();
    assert_eq!(stdout.trim(), umask.trim());
}

#[test]
fn a_content_that_the_lab_has_is_not_read_again() {
    let lab = Lab::new();
    fs::write(lab.path("in"), "content").unwrap();
    let prepared = [(); 2].map(|()| lab.prepare("cat in", &needs(&["in"], &[])));
    for prepared in prepared {
        let stdout = Printed::default();
        let streams = Streams {
            stdin: Box::new(io::empty()),
            stdout: Box::new(stdout.clone()),
            stderr: Box::new(io::sink()),
        };
        lab.session
            .start(prepared, streams)
            .unwrap()
            .wait()
            .unwrap();
        assert_eq!(stdout.text(), "content");
        // The second run must do without it.
        let _ = fs::remove_file(lab.path("in"));
    }
}

#[test]
fn a_content_that_changed_since_it_was_hashed_is_refused() {
    let lab = Lab::new();
    fs::write(lab.path("in"), "before").unwrap();
    let prepared = lab.prepare("cat in", &needs(&["in"], &[]));
    fs::write(lab.path("in"), "after!").unwrap();
    let streams = Streams {
        stdin: Box::new(io::empty()),
        stdout: Box::new(io::sink()),
        stderr: Box::new(io::sink()),
    };
    let error = lab
        .session
        .start(prepared, streams)
        .unwrap()
        .wait()
        .unwrap_err();
    assert!(
        matches!(&error, Error::Changed { path } if path.ends_with("in")),
        "{error}"
    );
}

#[test]
fn an_output_can_be_followed_while_it_grows_and_what_came_is_kept_when_the_lab_dies() {
    let lab = Lab::new();
    let (_go, stdin) = mpsc::channel();
    let prepared = lab.prepare(
        "echo first > out; read line; echo never >> out",
        &needs(&[], &["out"]),
    );
    let streams = Streams {
        stdin: Box::new(Until(stdin)),
        stdout: Box::new(io::sink()),
        stderr: Box::new(io::sink()),
    };
    let out = lab.path("out");
    thread::scope(|scope| {
        let verb = scope.spawn(|| lab.session.start(prepared, streams).unwrap().wait());
        until("the first line", || {
            fs::read_to_string(&out).is_ok_and(|text| text == "first\n")
        });
        lab.port.shutdown(std::net::Shutdown::Both).unwrap();
        let error = verb.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Lost { .. }), "{error}");
    });
    assert_eq!(fs::read_to_string(&out).unwrap(), "first\n");
    let _ = lab.agent.join().unwrap();
}

#[test]
fn an_output_that_cannot_be_written_ends_the_verb_and_is_named() {
    let lab = Lab::new();
    fs::write(lab.path("out"), "").unwrap();
    let script = "echo $$; read line; echo x > out; exec sleep 1000";
    let prepared = lab.prepare(script, &needs(&[], &["out"]));
    fs::remove_file(lab.path("out")).unwrap();
    std::os::unix::fs::symlink("/dev/full", lab.path("out")).unwrap();
    let stdout = Printed::default();
    let (go, stdin) = mpsc::channel();
    let streams = Streams {
        stdin: Box::new(Until(stdin)),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(io::sink()),
    };
    thread::scope(|scope| {
        let verb = scope.spawn(|| lab.session.start(prepared, streams).unwrap().wait());
        until("the verb runs", || stdout.text().ends_with('\n'));
        drop(go);
        let error = verb.join().unwrap().unwrap_err();
        assert!(
            matches!(&error, Error::Output { path, .. } if path.ends_with("out")),
            "{error}"
        );
    });
    until("the verb is killed", || gone(&stdout.text()));
}

#[test]
fn a_signal_reaches_the_verb_whose_end_counts() {
    let lab = Lab::new();
    let stdout = Printed::default();
    let streams = Streams {
        stdin: Box::new(io::empty()),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(io::sink()),
    };
    let script = "trap 'echo caught; exit 143' TERM; echo ready; while :; do sleep 0.01; done";
    let running = lab
        .session
        .start(lab.prepare(script, &needs(&[], &[])), streams)
        .unwrap();
    let interrupt = running.interrupter();
    thread::scope(|scope| {
        let verb = scope.spawn(|| running.wait());
        until("the verb runs", || stdout.text() == "ready\n");
        assert!(interrupt.signal(15));
        assert_eq!(verb.join().unwrap().unwrap(), Ended::Exit(143));
    });
    assert_eq!(stdout.text(), "ready\ncaught\n");
}

#[test]
fn a_second_signal_gives_up_on_the_verb_and_kills_all_that_it_started() {
    let lab = Lab::new();
    let stdout = Printed::default();
    let streams = Streams {
        stdin: Box::new(io::empty()),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(io::sink()),
    };
    let script = "trap '' TERM INT; sleep 1000 & echo $!; wait";
    let running = lab
        .session
        .start(lab.prepare(script, &needs(&[], &[])), streams)
        .unwrap();
    let interrupt = running.interrupter();
    thread::scope(|scope| {
        let verb = scope.spawn(|| running.wait());
        until("the verb runs", || stdout.text().ends_with('\n'));
        assert!(interrupt.signal(15));
        assert!(interrupt.signal(2));
        let error = verb.join().unwrap().unwrap_err();
        assert_eq!(error.signal(), Some(2), "{error}");
    });
    until("all is killed", || gone(&stdout.text()));
}

#[test]
fn what_a_verb_leaves_behind_ends_with_it() {
    let lab = Lab::new();
    let (ended, stdout, _) = lab.run("sleep 1000 & echo $!", &needs(&[], &[]), io::empty());
    assert_eq!(ended.unwrap(), Ended::Exit(0));
    until("the child is killed", || gone(&stdout));
}

#[test]
fn a_lab_without_the_memory_refuses_the_verb_with_both_figures() {
    let lab = Lab::with_memory(64 << 20);
    let (ended, ..) = lab.run("true", &needs(&[], &[]), io::empty());
    let text = ended.unwrap_err().to_string();
    assert!(
        text.contains("128 MiB") && text.contains("64 MiB"),
        "{text}"
    );
}

#[test]
fn the_agent_ends_with_its_host_and_its_verbs_with_it() {
    let lab = Lab::new();
    let stdout = Printed::default();
    let streams = Streams {
        stdin: Box::new(io::empty()),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(io::sink()),
    };
    let running = lab
        .session
        .start(
            lab.prepare("echo $$; exec sleep 1000", &needs(&[], &[])),
            streams,
        )
        .unwrap();
    thread::scope(|scope| {
        let verb = scope.spawn(|| running.wait());
        until("the verb runs", || stdout.text().ends_with('\n'));
        drop(lab.session);
        assert!(matches!(verb.join().unwrap(), Err(Error::Lost { .. })));
    });
    lab.agent.join().unwrap().unwrap();
    assert!(gone(&stdout.text()));
}

/// An agent that says what it is told to, and nothing else.
fn scripted(
    patience: Patience,
) -> (
    impl FnOnce() -> Result<Session, Error>,
    Sender<Frame<ToHost>>,
    UnixStream,
) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (out, frames) = mpsc::channel();
    let writing = theirs.try_clone().unwrap();
    thread::spawn(move || wire::write_all(writing, &frames));
    (move || Session::over(ours, None, patience), out, theirs)
}

#[test]
fn a_lab_of_another_build_is_refused_with_the_cure() {
    let _in_time = Deadline::set();
    let (join, out, _port) = scripted(PATIENT);
    out.send(Frame::Hello(Hello {
        protocol: 1,
        build: "older".to_owned(),
    }))
    .unwrap();
    let text = join().err().unwrap().to_string();
    assert!(
        text.contains("older") && text.contains("make lab"),
        "{text}"
    );
}

#[test]
fn a_lab_that_never_speaks_is_given_up() {
    let _in_time = Deadline::set();
    let (join, _out, _port) = scripted(Patience {
        hello: Duration::from_millis(20),
        ..PATIENT
    });
    let error = join().err().unwrap();
    assert_eq!(
        error.to_string(),
        "the lab is lost: it did not start within 20ms"
    );
}

#[test]
fn a_lab_that_falls_silent_is_asked_and_then_given_up() {
    let _in_time = Deadline::set();
    let (join, out, mut port) = scripted(Patience {
        beat: Duration::from_millis(2),
        beats: 40,
        ..PATIENT
    });
    out.send(Frame::Hello(Hello::ours())).unwrap();
    let session = join().unwrap();
    let (told, tells) = mpsc::channel();
    let _verb = session
        .verb(Box::new(move |word| told.send(word).unwrap()))
        .unwrap();
    assert_eq!(
        frame::read::<ToAgent>(&mut port).unwrap(),
        Some(Frame::Hello(Hello::ours()))
    );
    assert_eq!(
        frame::read::<ToAgent>(&mut port).unwrap(),
        Some(Frame::Ping)
    );
    assert!(
        matches!(tells.recv().unwrap(), super::session::Told::Lost(why) if why == "it was silent for 80ms")
    );
    assert!(matches!(
        session.verb(Box::new(drop)),
        Err(Error::Lost { .. })
    ));
}
