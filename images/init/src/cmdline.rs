//! The kernel's command line, as far as it concerns PID 1.

/// What `init.*` says.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Parameters<'a> {
    /// `init.run=`: what the shell is to run.
    pub(crate) run: Option<&'a str>,
    /// `init.end=`: how the guest is to end.
    pub(crate) end: Option<&'a str>,
    /// `init.talk=`: on which CPUs somebody is to talk.
    pub(crate) talk: Option<&'a str>,
    /// `init.trigger=`: what is to crash the kernel, and where.
    pub(crate) trigger: Option<&'a str>,
    /// `init.answer`: whoever holds the console's other end is to say when to go on.
    pub(crate) answer: bool,
    /// `init.capture=`: the command line of the capture kernel that is to be loaded.
    pub(crate) capture: Option<&'a str>,
    /// `init.vmcore`: this is the capture kernel, which hands over what it finds.
    pub(crate) vmcore: bool,
    /// `init.online=`: CPUs that are to be brought online before.
    pub(crate) online: Option<&'a str>,
}

impl<'a> Parameters<'a> {
    /// Reads the words of /proc/cmdline. As the kernel does with its own, the last of several wins.
    pub(crate) fn parse(text: &'a str) -> Self {
        let mut parameters = Self::default();
        for word in Words(text) {
            match word.split_once('=') {
                Some(("init.run", value)) => parameters.run = Some(unquoted(value)),
                Some(("init.end", value)) => parameters.end = Some(unquoted(value)),
                Some(("init.talk", value)) => parameters.talk = Some(unquoted(value)),
                Some(("init.trigger", value)) => parameters.trigger = Some(unquoted(value)),
                Some(("init.capture", value)) => parameters.capture = Some(unquoted(value)),
                Some(("init.online", value)) => parameters.online = Some(unquoted(value)),
                None if word == "init.answer" => parameters.answer = true,
                None if word == "init.vmcore" => parameters.vmcore = true,
                _ => {}
            }
        }
        parameters
    }
}

/// Splits at blanks outside of double quotes, as the kernel's `next_arg` does (Linux lib/cmdline.c). There is no escape for a quote.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_ascii_start();
        let mut quoted = false;
        let end = text.find(|c: char| {
            quoted ^= c == '"';
            !quoted && c.is_ascii_whitespace()
        });
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        self.0 = rest;
        // "NAME=VALUE", quoted as a whole, is the kernel's other way to write NAME="VALUE".
        (!word.is_empty()).then(|| {
            if word.starts_with('"') {
                unquoted(word)
            } else {
                word
            }
        })
    }
}

/// Without the quotes around it. The kernel drops a closing quote only where there was an opening one.
fn unquoted(word: &str) -> &str {
    match word.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').unwrap_or(rest),
        None => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Option<&str> {
        Parameters::parse(text).run
    }

    #[test]
    fn a_quoted_command_keeps_its_blanks() {
        assert_eq!(
            run("console=ttyAMA0 init.run=\"uname -a; echo 'a  b'\" quiet\n"),
            Some("uname -a; echo 'a  b'")
        );
        assert_eq!(run("quiet \"init.run=uname -a\"\n"), Some("uname -a"));
    }

    #[test]
    fn a_command_without_blanks_needs_no_quotes() {
        assert_eq!(run("init.run=ls\n"), Some("ls"));
        assert_eq!(run("  init.run=ls"), Some("ls"));
    }

    #[test]
    fn a_value_may_hold_an_equals_sign() {
        assert_eq!(run("init.run=\"a=1 env\""), Some("a=1 env"));
    }

    #[test]
    fn a_quote_left_open_reaches_to_the_end() {
        assert_eq!(run("init.run=\"echo one two"), Some("echo one two"));
    }

    #[test]
    fn the_last_of_several_wins() {
        assert_eq!(run("init.run=first init.run=second"), Some("second"));
    }

    #[test]
    fn others_parameters_are_left_alone() {
        assert_eq!(
            Parameters::parse("init=/init xinit.run=ls init.runs=ls console=\"a init.run=ls\"\n"),
            Parameters::default()
        );
    }

    #[test]
    fn the_end_is_read() {
        assert_eq!(
            Parameters::parse("init.end=reboot panic=-1\n").end,
            Some("reboot")
        );
    }

    #[test]
    fn talkers_and_triggers_are_read() {
        let parameters = Parameters::parse("init.talk=1,3 init.trigger=\"exit@2\"\n");
        assert_eq!(
            (parameters.talk, parameters.trigger),
            (Some("1,3"), Some("exit@2"))
        );
    }

    #[test]
    fn a_capture_kernels_words_are_its_own() {
        let text =
            "quiet init.capture=\"console=ttyAMA0 init.vmcore init.online=1,2\" init.answer\n";
        let parameters = Parameters::parse(text);
        let words = parameters.capture.unwrap();
        assert!(parameters.answer && !parameters.vmcore);
        let capture = Parameters::parse(words);
        assert_eq!((capture.vmcore, capture.online), (true, Some("1,2")));
    }

    #[test]
    fn a_word_without_a_value_asks_for_an_answer() {
        assert!(Parameters::parse("quiet init.answer init.run=ls\n").answer);
        assert!(!Parameters::parse("init.run=\"echo init.answer\" init.answers\n").answer);
    }
}
