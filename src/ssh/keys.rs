//! Key files: making them, reading their public half, checking who may read them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey, PublicKey};

use super::SshError;

/// A key file is never larger than this; RSA keys of 16384 bits stay below 16 KiB.
const MAX_KEY_FILE: u64 = 64 << 10;

/// A key pair on disk.
#[derive(Debug, Clone)]
pub struct KeyPair {
    /// The private key file (OpenSSH format, mode 0600).
    pub private: PathBuf,
    /// The public key as one line without its line end.
    pub public_line: String,
}

/// Makes an Ed25519 key pair: `path` (mode 0600) and `path.pub`. A file that is there is replaced.
pub fn generate(path: &Path, comment: &str) -> Result<KeyPair, SshError> {
    let bad = |why: String| SshError::BadKey { what: path.display().to_string(), why };
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| bad(format!("no random numbers: {e}")))?;
    let pair = KeypairData::from(Ed25519Keypair::from_seed(&seed));
    let key = PrivateKey::new(pair, comment).map_err(|e| bad(e.to_string()))?;
    let text = key.to_openssh(LineEnding::LF).map_err(|e| bad(e.to_string()))?;
    let public_line = key.public_key().to_openssh().map_err(|e| bad(e.to_string()))?;
    write_new(path, text.as_bytes(), 0o600)?;
    write_new(&public_path(path), format!("{public_line}\n").as_bytes(), 0o644)?;
    Ok(KeyPair { private: path.to_owned(), public_line })
}

/// The public line of a private key file: from the `.pub` file beside it, or from itself.
/// An encrypted key is an error: nobody is there to type its passphrase.
pub fn public_line_of(private: &Path) -> Result<String, SshError> {
    let text = read_key(private)?;
    if is_encrypted_pem(&text) {
        return Err(SshError::EncryptedKey { path: private.to_owned() });
    }
    let parsed = PrivateKey::from_openssh(&text);
    if parsed.as_ref().is_ok_and(PrivateKey::is_encrypted) {
        return Err(SshError::EncryptedKey { path: private.to_owned() });
    }
    let public = public_path(private);
    if public.exists() {
        let line = read_key(&public)?;
        let line = String::from_utf8_lossy(&line);
        return parse_public(line.trim(), &public.display().to_string()).map(|_| line.trim().to_owned());
    }
    let bad = |why: String| SshError::BadKey { what: private.display().to_string(), why };
    match parsed {
        Ok(key) => key.public_key().to_openssh().map_err(|e| bad(e.to_string())),
        Err(_) if text.starts_with(b"-----BEGIN ") => {
            Err(bad("it is not in OpenSSH format and has no `.pub` file beside it".into()))
        }
        Err(error) => Err(bad(error.to_string())),
    }
}

/// Fails when anyone but the owner may read the private key file, as `ssh` does.
pub fn check_permissions(path: &Path) -> Result<(), SshError> {
    let meta = fs::metadata(path).map_err(|source| SshError::KeyFile { path: path.to_owned(), source })?;
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SshError::OpenPermissions { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Parses an OpenSSH public line; `what` names it in the error.
pub(super) fn parse_public(line: &str, what: &str) -> Result<PublicKey, SshError> {
    PublicKey::from_openssh(line)
        .map_err(|e| SshError::BadKey { what: what.to_owned(), why: format!("no public key line ({e})") })
}

/// Reads a private key file that is about to be used: only its owner may read it, and it is
/// not encrypted.
pub(super) fn load_private(path: &Path) -> Result<String, SshError> {
    check_permissions(path)?;
    let text = read_key(path)?;
    let encrypted =
        is_encrypted_pem(&text) || PrivateKey::from_openssh(&text).is_ok_and(|key| key.is_encrypted());
    if encrypted {
        return Err(SshError::EncryptedKey { path: path.to_owned() });
    }
    String::from_utf8(text)
        .map_err(|_| SshError::BadKey { what: path.display().to_string(), why: "it is not text".into() })
}

fn is_encrypted_pem(text: &[u8]) -> bool {
    // PKCS#8 (RFC 5958 section 3) and the older PEM header (RFC 1421 section 4.6.1.1).
    let has = |needle: &[u8]| text.windows(needle.len()).any(|part| part == needle);
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

fn public_path(private: &Path) -> PathBuf {
    let mut name = private.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

fn read_key(path: &Path) -> Result<Vec<u8>, SshError> {
    let read = || -> io::Result<Vec<u8>> {
        let meta = fs::metadata(path)?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if meta.len() > MAX_KEY_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large for a key"));
        }
        fs::read(path)
    };
    read().map_err(|source| SshError::KeyFile { path: path.to_owned(), source })
}

fn write_new(path: &Path, data: &[u8], mode: u32) -> Result<(), SshError> {
    let write = || -> io::Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(data)?;
        file.sync_all()
    };
    write().map_err(|source| SshError::KeyFile { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_pair_is_private_and_consistent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let pair = generate(&path, "rvm web").unwrap();
        assert!(pair.public_line.starts_with("ssh-ed25519 AAAA") && pair.public_line.ends_with(" rvm web"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        check_permissions(&path).unwrap();
        assert_eq!(public_line_of(&path).unwrap(), pair.public_line);
        fs::remove_file(public_path(&path)).unwrap();
        assert_eq!(public_line_of(&path).unwrap(), pair.public_line);
        assert_ne!(generate(&path, "rvm web").unwrap().public_line, pair.public_line);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        generate(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = check_permissions(&path).unwrap_err();
        assert!(error.to_string().contains("0644"), "{error}");
        assert_eq!(error.hint(), Some(format!("run `chmod 600 {}`", path.display())));
        assert!(load_private(&path).is_err());
    }

    #[test]
    fn an_encrypted_key_is_said_to_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let status = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "passphrase", "-f"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(status.success());
        assert!(matches!(public_line_of(&path), Err(SshError::EncryptedKey { .. })));
        assert!(matches!(load_private(&path), Err(SshError::EncryptedKey { .. })));
    }

    #[test]
    fn what_is_no_key_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        assert!(matches!(public_line_of(&path), Err(SshError::KeyFile { .. })));
        for junk in [&b""[..], b"\xff\xfe\x00", b"-----BEGIN RSA PRIVATE KEY-----\nx\n", b"hello"] {
            fs::write(&path, junk).unwrap();
            assert!(matches!(public_line_of(&path), Err(SshError::BadKey { .. })));
        }
        fs::write(&path, vec![b'a'; 70_000]).unwrap();
        assert!(matches!(public_line_of(&path), Err(SshError::KeyFile { .. })));
        assert!(matches!(public_line_of(dir.path()), Err(SshError::KeyFile { .. })));
    }
}
