//! Guests of a few instructions, for tests that need no more.

/// Says `R` and a line's end on the PL011.
pub const SAY_R: &[u32] = &[
    0xd2a1_2002, // mov x2, #0x9000000
    0x5280_0a41, // mov w1, #'R'
    0x3900_0041, // strb w1, [x2]
    0x5280_0141, // mov w1, #'\n'
    0x3900_0041, // strb w1, [x2]
];

/// Does nothing for ever.
pub const SPIN: &[u32] = &[
    0x1400_0000, // b .
];

/// PSCI SYSTEM_RESET (DEN 0022, 5.1.10).
pub const RESET: &[u32] = &[
    0x5280_0120, // mov w0, #0x9
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0002, // hvc #0
];

/// The parts in a row, as a flat binary.
pub fn flat(parts: &[&[u32]]) -> Vec<u8> {
    parts
        .concat()
        .iter()
        .flat_map(|instruction| instruction.to_le_bytes())
        .collect()
}

/// The parts in a row, as an arm64 Image (Linux Documentation/arch/arm64/booting.rst).
pub fn image(parts: &[&[u32]]) -> Vec<u8> {
    const OVER_THE_HEADER: u32 = 0x1400_0010; // b .+64
    const IMAGE_SIZE: u64 = 0x1_0000;
    const FOUR_KIB_PAGES_ANYWHERE: u64 = 0xa;
    let mut bytes = vec![0; 64];
    bytes[..4].copy_from_slice(&OVER_THE_HEADER.to_le_bytes());
    bytes[16..24].copy_from_slice(&IMAGE_SIZE.to_le_bytes());
    bytes[24..32].copy_from_slice(&FOUR_KIB_PAGES_ANYWHERE.to_le_bytes());
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes.extend(flat(parts));
    bytes
}
