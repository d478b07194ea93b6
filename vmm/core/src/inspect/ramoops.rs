//! What the kernel keeps over a warm reset: a zone of ramoops (fs/pstore/ram_core.c, `struct persistent_ram_buffer`).
//!
//! A zone is a ring of bytes behind three words: a signature, where the next byte goes, and how many there are. As long as
//! the ring has not come round, the last two are the same.

use super::InspectError;

/// PERSISTENT_RAM_SIG, "DBGC"; the zones of the console and of dumps change nothing about it.
const SIGNATURE: u32 = 0x4347_4244;
const HEADER: usize = 12;

/// The text of a zone; none if no kernel has set it up.
pub fn ramoops_text(zone: &[u8]) -> Result<Option<Vec<u8>>, InspectError> {
    let damaged = |what: String| InspectError::Damaged {
        object: "the zone of ramoops".to_owned(),
        what,
    };
    let Some((header, data)) = zone.split_first_chunk::<HEADER>() else {
        return Err(damaged(format!("it has {} bytes", zone.len())));
    };
    let word = |at: usize| {
        let bytes = header[at..].first_chunk().expect("three words are there");
        u32::from_le_bytes(*bytes)
    };
    if word(0) != SIGNATURE {
        return Ok(None);
    }
    let (start, size) = (word(4) as usize, word(8) as usize);
    if size > data.len() || start > size {
        let room = data.len();
        return Err(damaged(format!(
            "byte {start} of {size} is to be the next one, and it has room for {room}"
        )));
    }
    let (newest, oldest) = data[..size].split_at(start);
    Ok(Some([oldest, newest].concat()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A zone of this room that a kernel has written these texts to (persistent_ram_write()).
    fn zone(room: usize, texts: &[&[u8]]) -> Vec<u8> {
        let mut data = vec![0; room];
        let (mut start, mut size) = (0, 0);
        for byte in texts.concat() {
            data[start] = byte;
            start = (start + 1) % room;
            size = (size + 1).min(room);
        }
        // The kernel wraps when it writes the next byte.
        if start == 0 && size == room {
            start = room;
        }
        let mut zone = SIGNATURE.to_le_bytes().to_vec();
        zone.extend((start as u32).to_le_bytes());
        zone.extend((size as u32).to_le_bytes());
        zone.extend(data);
        zone
    }

    fn text(zone: &[u8]) -> Option<Vec<u8>> {
        ramoops_text(zone).unwrap()
    }

    #[test]
    fn the_oldest_byte_comes_first() {
        assert_eq!(text(&zone(8, &[])).unwrap(), b"");
        assert_eq!(text(&zone(8, &[b"abc"])).unwrap(), b"abc");
        assert_eq!(text(&zone(8, &[b"abcdefgh"])).unwrap(), b"abcdefgh");
        assert_eq!(text(&zone(8, &[b"abcdefgh", b"ij"])).unwrap(), b"cdefghij");
    }

    #[test]
    fn a_zone_that_no_kernel_has_set_up_has_no_text() {
        assert_eq!(text(&[0; 64]), None);
    }

    #[test]
    fn a_damaged_zone_is_told() {
        assert!(ramoops_text(&[0; 11]).is_err());
        let mut long = zone(8, &[b"abc"]);
        long[8] = 9;
        let error = ramoops_text(&long).unwrap_err().to_string();
        assert!(
            error.contains("byte 3 of 9 is to be the next one, and it has room for 8"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_text_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 12..64), signed: bool) {
            if signed {
                bytes[..4].copy_from_slice(&SIGNATURE.to_le_bytes());
            }
            if let Ok(Some(text)) = ramoops_text(&bytes) {
                prop_assert!(text.len() <= bytes.len() - HEADER);
            }
        }
    }
}
