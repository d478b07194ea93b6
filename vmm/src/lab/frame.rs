//! The words that the host's `vmm` and the lab's agent exchange, and their form on the wire.
//!
//! A frame is its length (four bytes, little-endian) and that many bytes of postcard. This file does no more than turn
//! frames into bytes and back; it knows no port, no process and no clock.

use std::ffi::OsString;
use std::io::{self, Read};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Counted up whenever a frame changes its form or its meaning.
pub(super) const PROTOCOL: u32 = 3;

/// The identity of the sources that this program was built from.
pub(super) const BUILD: &str = env!("VMM_BUILD");

/// The most bytes of a stream that one frame carries.
pub(super) const CHUNK: usize = 64 << 10;

/// The longest frame. A `Start` is the long one: Linux allows 2 MiB of arguments.
const LONGEST: usize = 4 << 20;

/// What travels on the port; `M` is what one side may say about a verb.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum Frame<M> {
    /// The first frame each way. Its form is frozen: postcard writes this variant as 0, then the protocol's number, so that a
    /// stale image can be told from rubbish for ever.
    Hello(Hello),
    /// Are you there?
    Ping,
    /// I am.
    Pong,
    /// The lab is gone, in words; a server says it to its clients.
    Lost(String),
    /// About the verb with this number. The host numbers its verbs.
    Verb(u32, M),
}

/// Who speaks.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) build: String,
}

impl Hello {
    /// This program's own.
    pub(super) fn ours() -> Self {
        Self {
            protocol: PROTOCOL,
            build: BUILD.to_owned(),
        }
    }
}

/// A stream of bytes that belongs to a verb. Whoever sends on one needs credit for every byte.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(super) enum Channel {
    /// To the verb's standard input.
    Stdin,
    /// From its standard output, or from its terminal.
    Stdout,
    /// From its standard error.
    Stderr,
    /// To the agent's store: the contents that it lacks, one after the other, in the order of `ToHost::Lacks`.
    Contents,
    /// From the verb's output files; the bytes travel in `FileOp::Append`.
    Files,
    /// Between a debugger and the verb, both ways. The first bytes are a connection, and each side closes it once.
    Debugger,
}

/// What the host says about a verb.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum ToAgent {
    Start(Box<Start>),
    Bytes(Channel, #[serde(with = "serde_bytes")] Vec<u8>),
    /// Nothing more comes on this channel, or, for one that flows the other way, nothing more is wanted.
    Close(Channel),
    Credit(Channel, u32),
    Signal(i32),
    Resize(Size),
    /// Kill it; nobody waits for it any more.
    Cancel,
}

/// What the agent says about a verb.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum ToHost {
    /// The contents to send before the verb can start; may be empty.
    Lacks(Vec<Hash>),
    /// The last word about a verb that the agent could not start or not carry to its end, and why.
    Failed(String),
    Bytes(Channel, #[serde(with = "serde_bytes")] Vec<u8>),
    Close(Channel),
    Credit(Channel, u32),
    File(FileOp),
    /// The verb answers debuggers from now on.
    Debuggable,
    /// The last word about a verb: it ended, and everything that it wrote has been sent.
    Ended(Ended),
}

/// SHA-256 of a file's content.
pub(super) type Hash = [u8; 32];

/// How to start a verb. Paths are absolute and physical unless said otherwise.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Start {
    pub(super) program: Program,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) cwd: OsString,
    pub(super) umask: u32,
    /// Whether it reads the caller's standard input; otherwise it gets an empty one.
    pub(super) stdin: bool,
    /// A terminal in the lab, of this size, in place of the three standard streams.
    pub(super) terminal: Option<Size>,
    /// Whether debuggers may connect to it.
    pub(super) debugger: bool,
    /// What it may use of the lab's memory, in bytes.
    pub(super) memory: u64,
    /// The part of the caller's file tree that it sees, parents before children.
    pub(super) nodes: Vec<Node>,
    /// Where it may write: files, or folders with all that comes into them.
    pub(super) outputs: Vec<OsString>,
}

/// What is started.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum Program {
    /// `vmm`, under the path that it has at the caller, in a file tree of its own.
    Vmm(OsString),
    /// A program of the lab itself, in the lab's own file tree.
    Lab(OsString),
}

/// One object of the caller's file tree.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Node {
    pub(super) path: OsString,
    /// What the caller may do with it: bits of `access(2)`, read 4, write 2, search or execute 1.
    pub(super) access: u8,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum Kind {
    Folder,
    Link(OsString),
    /// A file that is read.
    File {
        hash: Hash,
        length: u64,
    },
    /// A file that is there, but whose content nobody asked for.
    Husk,
}

/// A step towards the same output files at the host, in order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum FileOp {
    Folder {
        path: OsString,
        mode: u32,
    },
    /// Make the file empty, or make it; `file` names it from now on.
    Open {
        file: u32,
        path: OsString,
        mode: u32,
    },
    Append {
        file: u32,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    Remove {
        path: OsString,
    },
}

impl FileOp {
    /// The bytes that it carries, which need credit.
    pub(super) fn length(&self) -> u32 {
        match self {
            Self::Append { bytes, .. } => bytes.len() as u32,
            Self::Folder { .. } | Self::Open { .. } | Self::Remove { .. } => 0,
        }
    }
}

/// How a verb ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Ended {
    /// With this exit code.
    Exit(u8),
    /// By this signal.
    Signal(i32),
    /// By this signal, for a fault of its own.
    Crashed {
        /// The signal.
        signal: i32,
        /// What the lab's kernel logged while the verb ran.
        log: String,
    },
}

/// Of a terminal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Size {
    pub(super) rows: u16,
    pub(super) columns: u16,
}

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The port itself failed.
    #[error(transparent)]
    Port(#[from] io::Error),
    /// Longer than any frame may be.
    #[error("a frame of {0} bytes, where {LONGEST} is the most")]
    TooLong(usize),
    /// The port closed in the middle of a frame.
    #[error("the port closed in the middle of a frame")]
    Cut,
    /// Not the form of a frame.
    #[error("bytes that are no frame: {0}")]
    Garbled(#[from] postcard::Error),
    /// A frame with something behind it.
    #[error("a frame with {0} bytes too many")]
    TooMany(usize),
}

/// The frame as it goes over the wire, length first.
pub(super) fn encode<M: Serialize>(frame: &Frame<M>) -> Result<Vec<u8>, FrameError> {
    let mut wire = postcard::to_extend(frame, vec![0; 4])?;
    let length = wire.len() - 4;
    if length > LONGEST {
        return Err(FrameError::TooLong(length));
    }
    wire[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(wire)
}

/// The frame in these bytes, which come without their length.
pub(super) fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<Frame<M>, FrameError> {
    match postcard::take_from_bytes(body)? {
        (frame, []) => Ok(frame),
        (_, rest) => Err(FrameError::TooMany(rest.len())),
    }
}

/// Reads the next frame; `None` when the port was closed between two frames.
pub(super) fn read<M: DeserializeOwned>(
    port: &mut impl Read,
) -> Result<Option<Frame<M>>, FrameError> {
    let mut length = [0; 4];
    match fill(port, &mut length)? {
        0 => return Ok(None),
        4 => {}
        _ => return Err(FrameError::Cut),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(FrameError::TooLong(length));
    }
    let mut body = vec![0; length];
    if fill(port, &mut body)? < length {
        return Err(FrameError::Cut);
    }
    decode(&body).map(Some)
}

/// Reads until the buffer is full or the port closes; how much came.
fn fill(port: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match port.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What the fuzz target `frames` runs (fuzz/): as a frame and as what comes on a port, bytes are an error, or what would be
/// written in their place can be read again.
///
/// # Panics
///
/// When that is not so.
#[doc(hidden)]
#[cfg(feature = "fuzzing")]
pub fn fuzz(bytes: &[u8]) {
    fn check<M: Serialize + DeserializeOwned + std::fmt::Debug + PartialEq>(frame: &Frame<M>) {
        let written = encode(frame).expect("no longer than it came");
        let again = read(&mut written.as_slice()).expect("what is written can be read");
        assert_eq!(again.as_ref(), Some(frame));
    }
    fn side<M: Serialize + DeserializeOwned + std::fmt::Debug + PartialEq>(bytes: &[u8]) {
        if let Ok(frame) = decode::<M>(bytes) {
            check(&frame);
        }
        let mut port = bytes;
        while let Ok(Some(frame)) = read::<M>(&mut port) {
            check(&frame);
        }
    }
    side::<ToAgent>(bytes);
    side::<ToHost>(bytes);
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = OsString> {
        vec(any::<u8>(), 0..40).prop_map(OsString::from_vec)
    }

    fn channel() -> impl Strategy<Value = Channel> {
        prop_oneof![
            Just(Channel::Stdin),
            Just(Channel::Stdout),
            Just(Channel::Stderr),
            Just(Channel::Contents),
            Just(Channel::Files),
            Just(Channel::Debugger)
        ]
    }

    fn size() -> impl Strategy<Value = Size> {
        any::<(u16, u16)>().prop_map(|(rows, columns)| Size { rows, columns })
    }

    fn node() -> impl Strategy<Value = Node> {
        let kind = prop_oneof![
            Just(Kind::Folder),
            text().prop_map(Kind::Link),
            any::<(Hash, u64)>().prop_map(|(hash, length)| Kind::File { hash, length }),
            Just(Kind::Husk),
        ];
        (text(), any::<u8>(), kind).prop_map(|(path, access, kind)| Node { path, access, kind })
    }

    fn start() -> impl Strategy<Value = Start> {
        let program = prop_oneof![text().prop_map(Program::Vmm), text().prop_map(Program::Lab)];
        let words = (
            program,
            vec(text(), 0..5),
            vec((text(), text()), 0..5),
            text(),
            vec(text(), 0..3),
        );
        let rest = (
            any::<u32>(),
            any::<bool>(),
            option::of(size()),
            any::<bool>(),
            any::<u64>(),
            vec(node(), 0..6),
        );
        (words, rest).prop_map(
            |(
                (program, args, env, cwd, outputs),
                (umask, stdin, terminal, debugger, memory, nodes),
            )| Start {
                program,
                args,
                env,
                cwd,
                umask,
                stdin,
                terminal,
                debugger,
                memory,
                nodes,
                outputs,
            },
        )
    }

    fn to_agent() -> impl Strategy<Value = ToAgent> {
        prop_oneof![
            start().prop_map(|start| ToAgent::Start(Box::new(start))),
            (channel(), vec(any::<u8>(), 0..200))
                .prop_map(|(channel, bytes)| ToAgent::Bytes(channel, bytes)),
            channel().prop_map(ToAgent::Close),
            (channel(), any::<u32>()).prop_map(|(channel, bytes)| ToAgent::Credit(channel, bytes)),
            any::<i32>().prop_map(ToAgent::Signal),
            size().prop_map(ToAgent::Resize),
            Just(ToAgent::Cancel),
        ]
    }

    fn to_host() -> impl Strategy<Value = ToHost> {
        let step = prop_oneof![
            (text(), any::<u32>()).prop_map(|(path, mode)| FileOp::Folder { path, mode }),
            (any::<u32>(), text(), any::<u32>()).prop_map(|(file, path, mode)| FileOp::Open {
                file,
                path,
                mode
            }),
            (any::<u32>(), vec(any::<u8>(), 0..200))
                .prop_map(|(file, bytes)| FileOp::Append { file, bytes }),
            text().prop_map(|path| FileOp::Remove { path }),
        ];
        prop_oneof![
            vec(any::<Hash>(), 0..4).prop_map(ToHost::Lacks),
            any::<String>().prop_map(ToHost::Failed),
            (channel(), vec(any::<u8>(), 0..200))
                .prop_map(|(channel, bytes)| ToHost::Bytes(channel, bytes)),
            channel().prop_map(ToHost::Close),
            (channel(), any::<u32>()).prop_map(|(channel, bytes)| ToHost::Credit(channel, bytes)),
            step.prop_map(ToHost::File),
            Just(ToHost::Debuggable),
            any::<u8>().prop_map(|code| ToHost::Ended(Ended::Exit(code))),
            any::<i32>().prop_map(|signal| ToHost::Ended(Ended::Signal(signal))),
            any::<(i32, String)>()
                .prop_map(|(signal, log)| ToHost::Ended(Ended::Crashed { signal, log })),
        ]
    }

    fn frame<M: Clone + std::fmt::Debug>(
        message: impl Strategy<Value = M>,
    ) -> impl Strategy<Value = Frame<M>> {
        prop_oneof![
            any::<(u32, String)>()
                .prop_map(|(protocol, build)| Frame::Hello(Hello { protocol, build })),
            Just(Frame::Ping),
            Just(Frame::Pong),
            any::<String>().prop_map(Frame::Lost),
            (any::<u32>(), message).prop_map(|(verb, message)| Frame::Verb(verb, message)),
        ]
    }

    /// Frames that come one after the other, in pieces of any size, are read back as they were.
    fn returns<M>(frames: Vec<Frame<M>>, piece: usize) -> Result<(), TestCaseError>
    where
        M: Clone + std::fmt::Debug + PartialEq + Serialize + DeserializeOwned,
    {
        struct Pieces<'a>(&'a [u8], usize);
        impl Read for Pieces<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let most = buffer.len().min(self.1);
                self.0.read(&mut buffer[..most])
            }
        }
        let wire: Vec<u8> = frames
            .iter()
            .flat_map(|frame| encode(frame).unwrap())
            .collect();
        let mut port = Pieces(&wire, piece);
        for frame in frames {
            prop_assert_eq!(read(&mut port).unwrap(), Some(frame));
        }
        prop_assert_eq!(read::<M>(&mut port).unwrap(), None);
        Ok(())
    }

    proptest! {
        #[test]
        fn frames_to_the_agent_return(frames in vec(frame(to_agent()), 1..5), piece in 1..300_usize) {
            returns(frames, piece)?;
        }

        #[test]
        fn frames_to_the_host_return(frames in vec(frame(to_host()), 1..5), piece in 1..300_usize) {
            returns(frames, piece)?;
        }

        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
            let _ = decode::<ToAgent>(&bytes);
            let _ = decode::<ToHost>(&bytes);
            let _ = read::<ToAgent>(&mut bytes.as_slice());
        }

        #[test]
        fn a_cut_frame_is_an_error(frame in frame(to_agent()), cut in any::<prop::sample::Index>()) {
            let wire = encode(&frame).unwrap();
            let cut = 1 + cut.index(wire.len() - 1);
            let mut port = &wire[..cut];
            prop_assert!(matches!(read::<ToAgent>(&mut port), Err(FrameError::Cut)));
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_anything_is_allocated() {
        let mut port: &[u8] = &[0xFF; 8];
        assert!(
            matches!(read::<ToHost>(&mut port), Err(FrameError::TooLong(length)) if length == u32::MAX as usize)
        );
        let long = Frame::Verb(0, ToHost::Bytes(Channel::Stdout, vec![0; LONGEST]));
        assert!(matches!(encode(&long), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn the_form_of_hello_is_frozen() {
        let hello = Frame::<ToHost>::Hello(Hello {
            protocol: 7,
            build: "ab".to_owned(),
        });
        assert_eq!(encode(&hello).unwrap(), [5, 0, 0, 0, 0, 7, 2, b'a', b'b']);
    }
}
