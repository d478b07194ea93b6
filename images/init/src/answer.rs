//! An exchange over the console with whoever holds its other end: what comes next waits until they say so.
//!
//! Question and answer are one byte each, so that no record of the kernel's log can come between their parts.

use std::io::{Read, Write};

use crate::{Error, console};

/// The question (ASCII's "enquiry").
const ENQ: u8 = 0x05;
/// The answer (ASCII's "acknowledge").
const ACK: u8 = 0x06;

/// Asks, and comes back with the answer.
pub(crate) fn wait() -> Result<(), Error> {
    if console::raw(exchange)? {
        Ok(())
    } else {
        Err(Error::NoAnswer)
    }
}

/// Whether the answer came before the end of the input. What comes before it is ignored; what comes behind it is left alone.
fn exchange(console: &mut (impl Read + Write)) -> std::io::Result<bool> {
    console.write_all(&[ENQ])?;
    let mut byte = [0];
    loop {
        match console.read_exact(&mut byte) {
            Ok(()) if byte == [ACK] => return Ok(true),
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// What `exchange` makes of what the other end says, what it has said itself, and what it has left.
    fn against(said: &[u8]) -> (bool, Vec<u8>, Vec<u8>) {
        let (mut console, mut other) = UnixStream::pair().unwrap();
        other.write_all(said).unwrap();
        other.shutdown(Shutdown::Write).unwrap();
        let answered = exchange(&mut console).unwrap();
        let (mut left, mut asked) = (Vec::new(), Vec::new());
        console.read_to_end(&mut left).unwrap();
        drop(console);
        other.read_to_end(&mut asked).unwrap();
        (answered, asked, left)
    }

    #[test]
    fn one_byte_asks_and_one_answers() {
        assert_eq!(against(b"\x06"), (true, b"\x05".to_vec(), Vec::new()));
    }

    #[test]
    fn what_is_no_answer_is_ignored_and_what_follows_it_is_kept() {
        let noise = b"\r\n\x05\x86yes\x03\x06ls\n";
        assert_eq!(against(noise), (true, b"\x05".to_vec(), b"ls\n".to_vec()));
    }

    #[test]
    fn the_end_of_the_input_is_no_answer() {
        assert_eq!(against(b"yes\n"), (false, b"\x05".to_vec(), Vec::new()));
    }
}
