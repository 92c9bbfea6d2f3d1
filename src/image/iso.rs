//! Writing a small ISO 9660 image: one folder, Rock Ridge names and modes.
//!
//! Layouts: ECMA-119 (4th edition) for the volume, IEEE P1281 (SUSP 1.12) and P1282 (RRIP
//! 1.12) for the fields that carry POSIX names and modes. Linux' `isofs` is the reader.

/// Logical sector and block size (ECMA-119, 6.1.2).
const SECTOR: usize = 2048;
/// The first 16 sectors belong to the system (ECMA-119, 6.2.1).
const VOLUME_DESCRIPTOR: usize = 16;
const PATH_TABLE_LITTLE: usize = 18;
const PATH_TABLE_BIG: usize = 19;
const ROOT_FOLDER: usize = 20;

/// A file of the image.
#[derive(Debug)]
pub(super) struct IsoFile {
    /// Its name: ASCII without `/`, at most 64 bytes.
    pub name: &'static str,
    /// Permission bits.
    pub mode: usize,
    /// Its content.
    pub content: Vec<u8>,
}

/// The image with volume label `label` (at most 32 bytes of `A-Z0-9_`).
pub(super) fn iso_image(label: &str, files: &[IsoFile]) -> Vec<u8> {
    // A folder is sorted by the plain ISO names (ECMA-119, 9.3).
    let mut files: Vec<(String, &IsoFile)> = files.iter().map(|f| (plain_name(f.name), f)).collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));

    // The size of the folder does not depend on where the files are.
    let folder_size = folder(&files, 0, 0).len();
    let first_file = ROOT_FOLDER + folder_size / SECTOR;
    let folder = folder(&files, folder_size, first_file);
    let mut data = vec![0; ROOT_FOLDER * SECTOR];
    data.extend_from_slice(&folder);
    for (_, file) in &files {
        data.extend_from_slice(&file.content);
        data.resize(data.len().next_multiple_of(SECTOR), 0);
    }

    let sectors = data.len() / SECTOR;
    put(&mut data, VOLUME_DESCRIPTOR, &volume_descriptor(label, sectors, folder_size));
    put(&mut data, VOLUME_DESCRIPTOR + 1, &[&[255][..], b"CD001", &[1]].concat());
    put(&mut data, PATH_TABLE_LITTLE, &path_table(&(ROOT_FOLDER as u32).to_le_bytes(), &1u16.to_le_bytes()));
    put(&mut data, PATH_TABLE_BIG, &path_table(&(ROOT_FOLDER as u32).to_be_bytes(), &1u16.to_be_bytes()));
    data
}

fn put(data: &mut [u8], sector: usize, content: &[u8]) {
    let start = sector * SECTOR;
    if let Some(place) = data.get_mut(start..start + content.len()) {
        place.copy_from_slice(content);
    }
}

/// `meta-data` → `META_DATA.;1`: what a reader without Rock Ridge sees (ECMA-119, 7.5).
fn plain_name(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    let (stem, extension) = upper.split_once('.').unwrap_or((&upper, ""));
    let clean = |part: &str| part.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    format!("{}.{};1", clean(stem), clean(extension))
}

/// A number in both byte orders (ECMA-119, 7.2.3 and 7.3.3).
fn both16(value: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (value.to_le_bytes(), value.to_be_bytes());
    [a, b, c, d]
}

fn both32(value: usize) -> [u8; 8] {
    // Nothing in a seed comes near 4 GiB.
    let value = value as u32;
    let ([a, b, c, d], [e, f, g, h]) = (value.to_le_bytes(), value.to_be_bytes());
    [a, b, c, d, e, f, g, h]
}

/// The folder's records: itself, its parent (itself again), then the files.
fn folder(files: &[(String, &IsoFile)], folder_size: usize, first_file: usize) -> Vec<u8> {
    // SUSP 5.3 "SP", 5.5 "ER": they say that Rock Ridge is in use.
    let marks =
        [&[b'S', b'P', 7, 1, 0xbe, 0xef, 0][..], &[b'E', b'R', 18, 1, 10, 0, 0, 1], b"RRIP_1991A"].concat();
    let own = posix_attributes(0o040_555, 2);
    let mut out = Vec::new();
    push_record(&mut out, &record(&[0], true, ROOT_FOLDER, folder_size, &[&marks[..], &own].concat()));
    push_record(&mut out, &record(&[1], true, ROOT_FOLDER, folder_size, &own));
    let mut sector = first_file;
    for (plain, file) in files {
        let mut system = posix_attributes(0o100_000 | (file.mode & 0o7777), 1);
        // RRIP 4.1.4 "NM": the real name.
        system.extend_from_slice(&[b'N', b'M', 5 + file.name.len() as u8, 1, 0]);
        system.extend_from_slice(file.name.as_bytes());
        push_record(&mut out, &record(plain.as_bytes(), false, sector, file.content.len(), &system));
        sector += file.content.len().div_ceil(SECTOR);
    }
    out.resize(out.len().next_multiple_of(SECTOR), 0);
    out
}

/// A record does not cross the end of a sector (ECMA-119, 6.8.1.1).
fn push_record(out: &mut Vec<u8>, record: &[u8]) {
    if out.len() % SECTOR + record.len() > SECTOR {
        out.resize(out.len().next_multiple_of(SECTOR), 0);
    }
    out.extend_from_slice(record);
}

/// RRIP 4.1.1 "PX": mode, links, user and group.
fn posix_attributes(mode: usize, links: usize) -> Vec<u8> {
    [&[b'P', b'X', 36, 1][..], &both32(mode), &both32(links), &both32(0), &both32(0)].concat()
}

/// One record of a folder (ECMA-119, 9.1).
fn record(name: &[u8], is_folder: bool, sector: usize, size: usize, system: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0];
    out.extend_from_slice(&both32(sector));
    out.extend_from_slice(&both32(size));
    // No date.
    out.extend_from_slice(&[0; 7]);
    out.extend_from_slice(&[if is_folder { 2 } else { 0 }, 0, 0]);
    out.extend_from_slice(&both16(1));
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    out.resize(out.len().next_multiple_of(2), 0);
    out.extend_from_slice(system);
    out.resize(out.len().next_multiple_of(2), 0);
    let length = out.len() as u8;
    if let Some(first) = out.first_mut() {
        *first = length;
    }
    out
}

/// The one entry of a path table (ECMA-119, 9.4): the root, its own parent.
fn path_table(sector: &[u8; 4], parent: &[u8; 2]) -> Vec<u8> {
    [&[1, 0][..], sector, parent, &[0, 0]].concat()
}

/// The primary volume descriptor (ECMA-119, 8.4).
fn volume_descriptor(label: &str, sectors: usize, folder_size: usize) -> Vec<u8> {
    let mut out = vec![1];
    out.extend_from_slice(b"CD001");
    out.extend_from_slice(&[1, 0]);
    let text = |out: &mut Vec<u8>, value: &str, width: usize| {
        out.extend(value.bytes().chain(std::iter::repeat(b' ')).take(width));
    };
    text(&mut out, "LINUX", 32);
    text(&mut out, label, 32);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&both32(sectors));
    out.extend_from_slice(&[0; 32]);
    out.extend_from_slice(&both16(1)); // volumes in the set
    out.extend_from_slice(&both16(1)); // number of this one
    out.extend_from_slice(&both16(SECTOR as u16));
    out.extend_from_slice(&both32(10)); // size of the path table
    out.extend_from_slice(&(PATH_TABLE_LITTLE as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(PATH_TABLE_BIG as u32).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&record(&[0], true, ROOT_FOLDER, folder_size, &[]));
    for width in [128, 128, 128, 128, 37, 37, 37] {
        text(&mut out, "", width);
    }
    for _ in 0..4 {
        // Four dates, none of them given (ECMA-119, 8.4.26.1).
        out.extend_from_slice(b"0000000000000000\0");
    }
    out.extend_from_slice(&[1, 0]);
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn number(data: &[u8]) -> usize {
        let little = u32::from_le_bytes(data[..4].try_into().unwrap());
        assert_eq!(little, u32::from_be_bytes(data[4..8].try_into().unwrap()));
        little as usize
    }

    /// Label, and name, mode and content of each file, as a Rock Ridge reader finds them.
    pub(in crate::image) fn parse(data: &[u8]) -> (String, Vec<(String, usize, Vec<u8>)>) {
        assert_eq!(data.len() % SECTOR, 0);
        let volume = &data[VOLUME_DESCRIPTOR * SECTOR..][..SECTOR];
        assert_eq!(&volume[..7], b"\x01CD001\x01");
        assert_eq!(number(&volume[80..]) * SECTOR, data.len());
        assert_eq!(volume[881], 1);
        let root = &volume[156..190];
        let (start, size) = (number(&root[2..]) * SECTOR, number(&root[10..]));
        let folder = &data[start..start + size];
        let mut files = Vec::new();
        let mut at = 0;
        let mut number_of_records = 0;
        while at < folder.len() {
            let length = folder[at] as usize;
            if length == 0 {
                at = (at + 1).next_multiple_of(SECTOR);
                continue;
            }
            let record = &folder[at..at + length];
            at += length;
            number_of_records += 1;
            let mut system = &record[(33 + record[32] as usize).next_multiple_of(2)..];
            if number_of_records == 1 {
                assert_eq!(&system[..7], b"SP\x07\x01\xbe\xef\0");
            }
            let (mut name, mut mode) = (None, 0);
            while system.len() > 3 {
                match &system[..2] {
                    b"NM" => name = Some(String::from_utf8(system[5..system[2] as usize].to_vec()).unwrap()),
                    b"PX" => mode = number(&system[4..]),
                    _ => {}
                }
                system = &system[system[2] as usize..];
            }
            if let Some(name) = name {
                let start = number(&record[2..]) * SECTOR;
                files.push((name, mode, data[start..start + number(&record[10..])].to_vec()));
            }
        }
        (String::from_utf8(volume[40..72].to_vec()).unwrap().trim_end().to_owned(), files)
    }

    #[test]
    fn files_come_back() {
        let names: Vec<&'static str> =
            (0..40).map(|i| &*Box::leak(format!("name-{i}.of_some-length").into_boxed_str())).collect();
        let mut files: Vec<IsoFile> = names
            .iter()
            .enumerate()
            .map(|(i, name)| IsoFile { name, mode: 0o400, content: vec![i as u8; i * 400] })
            .collect();
        let image = iso_image("CIDATA", &files);
        // What our guests look for, without a parser.
        assert_eq!(&image[32808..32814], b"CIDATA");
        let (label, mut found) = parse(&image);
        assert_eq!(label, "CIDATA");
        files.sort_by_key(|f| f.name);
        found.sort();
        assert_eq!(found.len(), 40);
        for (file, (name, mode, content)) in files.iter().zip(&found) {
            assert_eq!((file.name, 0o100_400, &file.content), (name.as_str(), *mode, content));
        }
    }

    #[test]
    fn plain_names_are_allowed_ones() {
        assert_eq!(plain_name("meta-data"), "META_DATA.;1");
        assert_eq!(plain_name("host_key.pub"), "HOST_KEY.PUB;1");
    }
}
