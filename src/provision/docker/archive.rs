//! Archives of images, as `docker save` writes them.

use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::model::hex;
use crate::provision::content::open;

/// Largest table of contents that is read, in bytes.
const MAX_MANIFEST: u64 = 1 << 20;
const MANIFEST: &str = "manifest.json";
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What an archive has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provision) struct Archive {
    /// SHA-256 of the file.
    pub digest: String,
    /// Its images: a name that leads to each, and its id (64 hexadecimal digits).
    pub images: Vec<(String, String)>,
}

/// An image in the table of contents (Docker Image Specification v1.2).
#[derive(Deserialize)]
struct Image {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
}

/// Reads an archive, packed by gzip or not.
pub(in crate::provision) fn read(path: &Path) -> io::Result<Archive> {
    let (mut file, _) = open(path)?;
    let mut hashing = Hashing { inner: &mut file, hash: Sha256::new() };
    let mut begin = [0; 2];
    hashing.read_exact(&mut begin).map_err(|_| not_one("it is too short"))?;
    let images = {
        let mut whole = begin.chain(&mut hashing);
        match begin == GZIP {
            true => images(flate2::read::MultiGzDecoder::new(&mut whole)),
            false => images(&mut whole),
        }?
    };
    // What follows the end mark belongs to the file, too.
    io::copy(&mut hashing, &mut io::sink())?;
    Ok(Archive { digest: hex(&hashing.hash.finalize()), images })
}

fn images(reader: impl Read) -> io::Result<Vec<(String, String)>> {
    let mut found = None;
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let entry = entry.map_err(|error| not_one(&error.to_string()))?;
        if entry.path()? == Path::new(MANIFEST) && found.is_none() {
            let mut text = Vec::new();
            entry.take(MAX_MANIFEST).read_to_end(&mut text)?;
            let list: Vec<Image> =
                serde_json::from_slice(&text).map_err(|error| not_one(&format!("{MANIFEST}: {error}")))?;
            found = Some(list);
        }
    }
    let list = found.ok_or_else(|| not_one(&format!("it has no {MANIFEST}")))?;
    let mut images = Vec::new();
    for image in list {
        let id = image.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json").to_owned();
        if id.len() != 64 || !id.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(not_one(&format!("{MANIFEST} names an image {:?}", image.config)));
        }
        match image.tags.unwrap_or_default() {
            tags if tags.is_empty() => images.push((id.clone(), id)),
            tags => images.extend(tags.into_iter().map(|tag| (tag, id.clone()))),
        }
    }
    match images.is_empty() {
        true => Err(not_one("there is no image in it")),
        false => Ok(images),
    }
}

fn not_one(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is no archive of `docker save`: {why}"))
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pack(files: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            archive.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn read_bytes(data: &[u8]) -> io::Result<Archive> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(data).unwrap();
        read(file.path())
    }

    #[test]
    fn images_and_their_names() {
        let (one, two) = ("1".repeat(64), "a".repeat(64));
        let manifest = format!(
            r#"[{{"Config":"{one}.json","RepoTags":["app:1","app:latest"]}},
                {{"Config":"blobs/sha256/{two}","RepoTags":null,"Layers":[]}}]"#
        );
        let data = pack(&[("layer.tar", "x"), ("manifest.json", &manifest), ("repositories", "{}")]);
        let archive = read_bytes(&data).unwrap();
        let (one, two) = (one.as_str(), two.as_str());
        let images: Vec<_> = archive.images.iter().map(|(name, id)| (name.as_str(), id.as_str())).collect();
        assert_eq!(images, [("app:1", one), ("app:latest", one), (two, two)]);
        assert_eq!(archive.digest, hex(&Sha256::digest(&data)));
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&data).unwrap();
        let packed = packed.finish().unwrap();
        let unpacked = read_bytes(&packed).unwrap();
        assert_eq!(unpacked.images, archive.images);
        assert_eq!(unpacked.digest, hex(&Sha256::digest(&packed)));
    }

    #[test]
    fn what_is_no_archive_is_told() {
        let bad_id = r#"[{"Config":"../x.json"}]"#;
        for (data, why) in [
            (Vec::new(), "too short"),
            (b"#!/bin/sh\ntrue\n".to_vec(), "no archive"),
            (pack(&[("a", "b")]), "no manifest.json"),
            (pack(&[("manifest.json", "[")]), "EOF"),
            (pack(&[("manifest.json", "[]")]), "no image in it"),
            (pack(&[("manifest.json", bad_id)]), "names an image"),
            (vec![0x1f, 0x8b, 0, 0], ""),
        ] {
            let error = read_bytes(&data).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
