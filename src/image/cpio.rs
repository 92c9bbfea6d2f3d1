//! Writing the archive that a kernel takes as its first root file system: cpio "newc"
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).

/// Builds an archive in memory. Everything in it belongs to root.
#[derive(Debug, Default)]
pub(super) struct Cpio {
    data: Vec<u8>,
    entries: u32,
}

const DIR: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

impl Cpio {
    /// A folder of mode 0755. Parents come before what they hold.
    pub(super) fn dir(&mut self, path: &str) {
        self.entry(path, DIR | 0o755, (0, 0), &[]);
    }

    /// A file; `mode` is its permission bits.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, FILE | (mode & 0o7777), (0, 0), content);
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// A character device of mode 0600.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.data
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        // Kernel modules and busybox are far below 4 GiB, which is all that the format can say.
        let fields: [u32; 13] = [
            self.entries,
            mode,
            0,
            0,
            if mode & 0o170_000 == DIR { 2 } else { 1 },
            0,
            content.len() as u32,
            0,
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0,
        ];
        self.data.extend_from_slice(b"070701");
        for field in fields {
            self.data.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.data.extend_from_slice(path.as_bytes());
        self.data.push(0);
        self.pad();
        self.data.extend_from_slice(content);
        self.pad();
    }

    /// Header with name, and content, each end on a multiple of four.
    fn pad(&mut self) {
        self.data.resize(self.data.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Path, mode, device and content.
    pub(in crate::image) type Entry = (String, u32, (u32, u32), Vec<u8>);

    /// Each entry but the trailer.
    pub(in crate::image) fn parse(data: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            let field = |n: usize| {
                let start = at + 6 + n * 8;
                u32::from_str_radix(std::str::from_utf8(&data[start..start + 8]).unwrap(), 16).unwrap()
            };
            assert_eq!(&data[at..at + 6], b"070701");
            let name_end = at + 110 + field(11) as usize;
            let name = std::str::from_utf8(&data[at + 110..name_end - 1]).unwrap().to_owned();
            assert_eq!(data[name_end - 1], 0);
            let start = name_end.next_multiple_of(4);
            let end = start + field(6) as usize;
            if name == "TRAILER!!!" {
                assert_eq!(end, data.len());
                return entries;
            }
            entries.push((name, field(1), (field(9), field(10)), data[start..end].to_vec()));
            at = end.next_multiple_of(4);
        }
    }

    #[test]
    fn entries_come_back() {
        let mut cpio = Cpio::default();
        cpio.dir("dev");
        cpio.device("dev/console", 5, 1);
        for length in 0..9 {
            cpio.file(&"n".repeat(length + 1), 0o755, &vec![7; length]);
        }
        let entries = parse(&cpio.finish());
        assert_eq!(entries[0], ("dev".into(), 0o040_755, (0, 0), vec![]));
        assert_eq!(entries[1], ("dev/console".into(), 0o020_600, (5, 1), vec![]));
        assert_eq!(entries.len(), 11);
        for (length, entry) in entries[2..].iter().enumerate() {
            assert_eq!(entry, &("n".repeat(length + 1), 0o100_755, (0, 0), vec![7; length]));
        }
    }
}
