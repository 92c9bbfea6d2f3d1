//! Passwords as `/etc/shadow` keeps them.

use sha_crypt::{PasswordHasher, ShaCrypt};

use super::ImageError;
use crate::model::Secret;

/// The SHA-512 crypt hash (`$6$…`, crypt(5)) of `password`, with a fresh salt of 96 bits and the
/// usual 5,000 rounds.
pub fn hash_password(password: &Secret) -> Result<Secret, ImageError> {
    let fail = |what: &str| ImageError::BadSeed { what: what.to_owned() };
    let mut salt = [0; 12];
    getrandom::fill(&mut salt)
        .map_err(|_| fail("the system gives no random numbers for a password's salt"))?;
    let hash = ShaCrypt::SHA512
        .hash_password_with_salt(password.expose().as_bytes(), &salt)
        .map_err(|_| fail("the password cannot be hashed"))?;
    Ok(Secret::new(hash.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha_crypt::{PasswordHash, PasswordVerifier};

    #[test]
    fn the_hash_is_one_of_that_password_and_salted() {
        let password = Secret::new("pa:ss 'wörd\"");
        let first = hash_password(&password).unwrap();
        let hash = PasswordHash::new(first.expose()).unwrap();
        assert!(first.expose().starts_with("$6$"), "{}", first.expose());
        assert!(ShaCrypt::SHA512.verify_password(password.expose().as_bytes(), &hash).is_ok());
        assert!(ShaCrypt::SHA512.verify_password(b"another", &hash).is_err());
        assert_ne!(first.expose(), hash_password(&password).unwrap().expose());
        assert!(first.expose().chars().all(|c| c.is_ascii_graphic() && c != ':'));
    }
}
