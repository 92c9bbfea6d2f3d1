//! Unpacking what kernels and their modules are packed with, never beyond a limit.

use std::io::{self, Read};

/// Magic numbers, as the kernel's `lib/decompress.c` knows them.
const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// LZ4's legacy frame (LZ4 Frame Format Description, "Legacy frame").
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
/// A block of a legacy frame holds at most this much when unpacked.
const LZ4_BLOCK: usize = 8 << 20;

/// The content of `data`, which is packed with gzip, xz, zstd or LZ4's legacy frame; at most
/// `limit` bytes. Bytes after the packed stream are ignored, as the kernel's own tail is.
/// `Err` says what is wrong, as a fragment.
pub(super) fn unpack(data: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let failed = |what: &'static str| move |error: io::Error| format!("its {what} data is damaged: {error}");
    if data.starts_with(GZIP) {
        read_bounded(flate2::bufread::GzDecoder::new(data), limit).map_err(failed("gzip"))
    } else if data.starts_with(XZ) {
        read_bounded(liblzma::bufread::XzDecoder::new(data), limit).map_err(failed("xz"))
    } else if data.starts_with(ZSTD) {
        let decoder = zstd::stream::read::Decoder::with_buffer(data).map_err(failed("zstd"))?;
        read_bounded(decoder.single_frame(), limit).map_err(failed("zstd"))
    } else if let Some(blocks) = data.strip_prefix(LZ4_LEGACY) {
        lz4_legacy(blocks, limit).map_err(failed("LZ4"))
    } else {
        Err("it is packed in a way that is not known (neither gzip, xz, zstd nor LZ4)".into())
    }
}

fn too_large(limit: usize) -> io::Error {
    io::Error::other(format!("more than {limit} bytes come out of it"))
}

fn read_bounded(reader: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut out)?;
    if out.len() > limit { Err(too_large(limit)) } else { Ok(out) }
}

/// Blocks of a legacy frame: size (32 bits, little endian), then that many bytes. The kernel's
/// build appends four bytes more, the unpacked size: they are no block.
fn lz4_legacy(mut rest: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while rest.len() > 4 {
        let Some((size, after)) = rest.split_first_chunk::<4>() else { break };
        if size == LZ4_LEGACY {
            rest = after;
            continue;
        }
        let size = u32::from_le_bytes(*size) as usize;
        let Some((packed, after)) = after.split_at_checked(size) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let length = lz4_flex::block::decompress_into(packed, &mut block).map_err(io::Error::other)?;
        out.extend_from_slice(block.get(..length).unwrap_or_default());
        if out.len() > limit {
            return Err(too_large(limit));
        }
        rest = after;
        // A shorter block ends the frame.
        if length < LZ4_BLOCK {
            break;
        }
    }
    Ok(out)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    /// Packs `data` as the kernel's build does with LZ4.
    pub(in crate::image) fn lz4(data: &[u8]) -> Vec<u8> {
        let mut out = LZ4_LEGACY.to_vec();
        for block in data.chunks(LZ4_BLOCK) {
            let packed = lz4_flex::block::compress(block);
            out.extend_from_slice(&(packed.len() as u32).to_le_bytes());
            out.extend_from_slice(&packed);
        }
        out.extend_from_slice(&(data.len() as u32).to_le_bytes());
        out
    }

    pub(in crate::image) fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    pub(in crate::image) fn xz(data: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn with_tail(mut packed: Vec<u8>) -> Vec<u8> {
        packed.extend_from_slice(&[1, 2, 3, 4]);
        packed
    }

    #[test]
    fn each_format_comes_back() {
        // Two LZ4 blocks and a bit.
        let data: Vec<u8> = (0..(LZ4_BLOCK * 2 + 77)).map(|i| (i >> 7) as u8).collect();
        let limit = data.len();
        assert!(unpack(&lz4(&data), limit).unwrap() == data);
        assert!(unpack(&with_tail(gzip(&data)), limit).unwrap() == data);
        assert!(unpack(&with_tail(xz(&data)), limit).unwrap() == data);
        assert!(unpack(&with_tail(zstd::encode_all(&data[..], 1).unwrap()), limit).unwrap() == data);
    }

    #[test]
    fn nothing_grows_beyond_the_limit() {
        let data = vec![0; 1 << 20];
        for packed in [lz4(&data), gzip(&data), xz(&data), zstd::encode_all(&data[..], 1).unwrap()] {
            let error = unpack(&packed, data.len() - 1).unwrap_err();
            assert!(error.contains("more than"), "{error}");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let data: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(i) >> 3) as u8).collect();
        for packed in [lz4(&data), gzip(&data), xz(&data), zstd::encode_all(&data[..], 1).unwrap()] {
            assert!(unpack(&packed[..packed.len() / 2], 1 << 20).is_err());
        }
        let huge_block = [LZ4_LEGACY, &u32::MAX.to_le_bytes(), &[0; 9]].concat();
        assert!(unpack(&huge_block, 1 << 20).is_err());
        assert!(unpack(b"BZh91AY", 1 << 20).unwrap_err().contains("not known"));
        assert!(unpack(b"", 1).is_err());
    }
}
