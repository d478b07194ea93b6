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
