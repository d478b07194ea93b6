//! Sizes as people type them.

/// Parses `512M`, `2G`, `64MiB` or a number of bytes.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => {
            return Err(format!(
                "'{unit}' is no unit; a size is a number and K, M, G or T"
            ));
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "a size is a number and K, M, G or T".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "more bytes than there are numbers".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes() {
        assert_eq!(parse("512M"), Ok(512 << 20));
        assert_eq!(parse("2g"), Ok(2 << 30));
        assert_eq!(parse("64MiB"), Ok(64 << 20));
        assert_eq!(parse("4096"), Ok(4096));
        assert!(parse("12Q").unwrap_err().contains("'Q' is no unit"));
        assert!(parse("").is_err() && parse("M").is_err() && parse("-1").is_err());
        assert!(parse("99999999999T").unwrap_err().contains("more bytes"));
    }
}
