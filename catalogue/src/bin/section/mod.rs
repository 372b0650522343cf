//! A generated section of a file, between two marker lines.

use std::process::ExitCode;

/// What stands between the markers, and the `make` target that writes it.
pub(crate) struct Section {
    /// In the line in front of the section.
    pub(crate) begin: &'static str,
    /// In the line behind it.
    pub(crate) end: &'static str,
    /// The lines between, each with this indent in front.
    pub(crate) text: fn(indent: &str) -> String,
    /// Target that writes it.
    pub(crate) target: &'static str,
}

impl Section {
    /// Runs a program of the form `PROGRAM [--check] [FILE…]`: prints the section if no file is named, else writes it into each
    /// file, or with `--check` only says, by its exit code, whether each file is up to date.
    pub(crate) fn run(&self) -> ExitCode {
        let mut files: Vec<String> = std::env::args().skip(1).collect();
        let check = files.first().is_some_and(|argument| argument == "--check");
        if check {
            files.remove(0);
        }
        if files.is_empty() {
            print!("{}", (self.text)(""));
            return ExitCode::SUCCESS;
        }
        let mut stale = false;
        for file in files {
            match self.update(&file, check) {
                Ok(true) if check => {
                    stale = true;
                    eprintln!("{file}: out of date: run `make {}`", self.target);
                }
                Ok(true) => eprintln!("{file}: rewritten"),
                Ok(false) => {}
                Err(error) => {
                    eprintln!("{file}: {error}");
                    return ExitCode::FAILURE;
                }
            }
        }
        if stale { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    /// True: the file was (or would have to be) changed.
    fn update(&self, file: &str, check: bool) -> Result<bool, String> {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        let updated = self.updated(&text)?;
        if updated == text {
            return Ok(false);
        }
        if !check {
            std::fs::write(file, updated).map_err(|error| error.to_string())?;
        }
        Ok(true)
    }

    /// The text with this section in its place.
    pub(crate) fn updated(&self, text: &str) -> Result<String, String> {
        let (head, rest) = text.split_once(self.begin).ok_or_else(|| format!("no line {:?}", self.begin))?;
        let (_, tail) = rest.split_once(self.end).ok_or_else(|| format!("no line {:?}", self.end))?;
        let indent = head.rsplit('\n').next().unwrap_or_default();
        Ok(format!("{head}{}\n{}{indent}{}{tail}", self.begin, (self.text)(indent), self.end))
    }
}

#[cfg(test)]
mod tests {
    use super::Section;

    const SECTION: Section =
        Section { begin: "# begin", end: "# end", text: |indent| format!("{indent}new\n"), target: "none" };

    #[test]
    fn what_stands_between_the_markers_is_replaced() {
        let updated = SECTION.updated("a\n  # begin\n  old\n  older\n  # end\nb\n").unwrap();
        assert_eq!(updated, "a\n  # begin\n  new\n  # end\nb\n");
        assert_eq!(SECTION.updated(&updated).unwrap(), updated);
    }

    #[test]
    fn a_missing_marker_is_named() {
        assert!(SECTION.updated("a\n# end\n").unwrap_err().contains("# begin"));
        assert!(SECTION.updated("a\n# begin\n").unwrap_err().contains("# end"));
    }
}
