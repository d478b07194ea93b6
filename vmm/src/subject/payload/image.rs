//! The payload's file: where it is, and what its symbols say.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

use guest_abi::mailbox::{self, symbol};
use object::{Object as _, ObjectSymbol as _, SymbolKind};
use vmm_core::evidence::{Place, PlaceKind, Places};

/// What the payload's file may be wrong in.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is nowhere.
    #[error("no payload in {}: `make guest` makes it, VMM_PAYLOAD says where it is", list(.0))]
    Nowhere(Vec<PathBuf>),
    /// It is no ELF file.
    #[error("{path} is no payload: {source}")]
    NotElf {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: object::Error,
    },
    /// It lacks a symbol.
    #[error(
        "{path} is not this version's payload: it has no symbol `{symbol}`; `make guest` makes it anew"
    )]
    NoSymbol {
        /// The file.
        path: String,
        /// The symbol.
        symbol: &'static str,
    },
}

fn list(folders: &[PathBuf]) -> String {
    let folders: Vec<String> = folders
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    folders.join(", ")
}

/// Where the payload lies: as VMM_PAYLOAD says, built beside this program, or installed with it.
pub fn find() -> Result<PathBuf, ImageError> {
    if let Some(path) = env::var_os("VMM_PAYLOAD") {
        return Ok(path.into());
    }
    const BUILT: &str = "guest/aarch64-unknown-none-softfloat/release/guest";
    let program = env::current_exe().unwrap_or_default();
    let folder = program.parent().unwrap_or(&program);
    // Built for this machine, and for another one.
    let places = ["..", "../.."].map(|up| folder.join(up).join(BUILT));
    let places = [&places[..], &[folder.join("../lib/holdpoint/payload")]].concat();
    match places.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(ImageError::Nowhere(places)),
    }
}

/// What the rules ask of the payload's functions.
const KINDS: &[(&str, PlaceKind)] = &[
    ("pl011_console_write", PlaceKind::Section),
    ("pl011_console_write_thread", PlaceKind::Section),
    ("pl011_console_write_atomic", PlaceKind::Section),
    ("el1h_64_irq", PlaceKind::StopPath),
    ("do_handle_IPI", PlaceKind::StopPath),
    ("cpu_park_loop", PlaceKind::StopPath),
    ("__crash_kexec", PlaceKind::CrashKexec),
];

/// The addresses of the statics that are read from outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statics {
    pub(super) mailbox: u64,
    pub(super) online_mask: u64,
    pub(super) online_count: u64,
    pub(super) stop_mask: u64,
    pub(super) counter: u64,
    pub(super) notes: u64,
    pub(super) port_lock: u64,
    pub(super) nbcon: u64,
    pub(super) log: u64,
}

/// What the payload's file says.
#[derive(Clone, Debug)]
pub struct Image {
    pub(super) statics: Statics,
    pub(super) places: Places,
    /// Its GNU build id, if the linker gave it one.
    pub(super) build_id: Option<String>,
}

impl Image {
    /// Reads it.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Self, ImageError> {
        let name = path.display().to_string();
        let wrong = |source| ImageError::NotElf {
            path: name.clone(),
            source,
        };
        let file = object::File::parse(bytes).map_err(wrong)?;
        let mut addresses = BTreeMap::new();
        let mut places = Vec::new();
        for symbol in file.symbols() {
            let Ok(text) = symbol.name() else { continue };
            addresses.insert(text.to_owned(), symbol.address());
            if symbol.kind() == SymbolKind::Text && symbol.size() > 0 {
                let kind = KINDS.iter().find(|(known, _)| *known == text);
                places.push(Place {
                    start: symbol.address(),
                    end: symbol.address() + symbol.size(),
                    kind: kind.map_or(PlaceKind::Other, |(_, kind)| *kind),
                    name: text.to_owned(),
                });
            }
        }
        places.sort_by_key(|place| place.start);
        let address = |symbol: &'static str| {
            addresses.get(symbol).copied().ok_or(ImageError::NoSymbol {
                path: name.clone(),
                symbol,
            })
        };
        let statics = Statics {
            mailbox: address(mailbox::SYMBOL)?,
            online_mask: address(symbol::ONLINE_MASK)?,
            online_count: address(symbol::ONLINE_COUNT)?,
            stop_mask: address(symbol::STOP_MASK)?,
            counter: address(symbol::COUNTER)?,
            notes: address(symbol::NOTES)?,
            port_lock: address(symbol::PORT_LOCK)?,
            nbcon: address(symbol::NBCON)?,
            log: address(symbol::LOG)?,
        };
        let build_id = file.build_id().map_err(wrong)?;
        Ok(Self {
            statics,
            places: Places(places),
            build_id: build_id.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()),
        })
    }
}
