//! Text from guests and files, made safe for a terminal.

/// Removes terminal control from `text`: escape sequences (ECMA-48), other control characters
/// but tab and line feed, and what a carriage return overwrites. A guest must not be able to
/// move the cursor, set the title or answer for the user.
pub fn sanitise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let line = strip_sequences(line.trim_end_matches('\r'));
        // A progress meter redraws its line: the last state is the one to keep.
        let last = line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or("");
        out.extend(last.chars().filter(|c| *c == '\t' || !c.is_control()));
    }
    out
}

/// Leaves out escape sequences: CSI (`ESC [` … final byte), strings (`ESC ]`, `P`, `X`, `^`, `_`
/// up to BEL or ST) and two-character ones. An unfinished one takes the rest of the line.
fn strip_sequences(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                Some('[') => skip_csi(&mut chars),
                Some(']' | 'P' | 'X' | '^' | '_') => skip_string(&mut chars),
                // Intermediate bytes come before the final one: ESC ( B.
                Some(' '..='/') => {
                    chars.find(|c| !(' '..='/').contains(c));
                }
                _ => {}
            },
            // The one-character forms of CSI and OSC.
            '\u{9b}' => skip_csi(&mut chars),
            '\u{9d}' | '\u{90}' => skip_string(&mut chars),
            _ => out.push(c),
        }
    }
    out
}

fn skip_csi(chars: &mut std::str::Chars<'_>) {
    chars.find(|c| ('@'..='~').contains(c));
}

fn skip_string(chars: &mut std::str::Chars<'_>) {
    while let Some(c) = chars.next() {
        match c {
            '\x07' | '\u{9c}' => return,
            '\x1b' => {
                chars.next();
                return;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_kept() {
        assert_eq!(sanitise("Größe:\t5 €\nnext"), "Größe:\t5 €\nnext");
    }

    #[test]
    fn colours_titles_and_cursor_moves_go() {
        assert_eq!(sanitise("\x1b[1;31mred\x1b[0m"), "red");
        assert_eq!(sanitise("\x1b]0;owned\x07shell"), "shell");
        assert_eq!(sanitise("\x1b]52;c;AAAA\x1b\\clip"), "clip");
        assert_eq!(sanitise("\x1b(Bset\x1b=\x1b[2Jclear\u{9b}31mx"), "setclearx");
        assert_eq!(sanitise("bell\x07 back\x08"), "bell back");
    }

    #[test]
    fn an_unfinished_sequence_hides_nothing_of_the_next_line() {
        assert_eq!(sanitise("a\x1b[12\nb\x1b]0;t\nc\x1b"), "a\nb\nc");
    }

    #[test]
    fn a_redrawn_line_shows_its_last_state() {
        assert_eq!(sanitise("10%\r50%\r100%\r\ndone\r"), "100%\ndone");
    }

    proptest::proptest! {
        #[test]
        fn never_lets_control_through(text in ".*") {
            let safe = sanitise(&text);
            proptest::prop_assert!(safe.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
        }
    }
}
