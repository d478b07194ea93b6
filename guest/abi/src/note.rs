//! The crash note: an ELF note `CORE`/`NT_PRSTATUS` with one `struct elf_prstatus`, closed by an empty note.
//!
//! `crash_save_cpu()` writes header, name, descriptor and terminator in this order, without a barrier and
//! without a flag that says "valid" (kernel/crash_core.c). The layout is that of arm64 LP64, little-endian.

/// Bytes of a whole note, `CRASH_CORE_NOTE_BYTES`.
pub const NOTE_BYTES: usize = 424;
/// `n_namesz`: "CORE" and its NUL.
pub const NAME_BYTES: u32 = 5;
/// `n_descsz`: `sizeof(struct elf_prstatus)`.
pub const DESC_BYTES: u32 = 392;
/// `n_type`: `NT_PRSTATUS`.
pub const TYPE_PRSTATUS: u32 = 1;
/// Offset of the name.
pub const NAME_AT: usize = 12;
/// Offset of `pr_pid`.
pub const PID_AT: usize = 52;
/// Offset of x0; xN follows at 8 N.
pub const X0_AT: usize = 132;
/// Offset of sp.
pub const SP_AT: usize = 380;
/// Offset of pc.
pub const PC_AT: usize = 388;
/// Offset of pstate.
pub const PSTATE_AT: usize = 396;
/// Offset of the empty note that closes it: twelve zero bytes.
pub const END_AT: usize = 412;
