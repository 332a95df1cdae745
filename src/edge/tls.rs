//! The one thing that every TLS client of the process shares: who does its cryptography.

/// Makes ring the process's provider of TLS cryptography, unless one is installed already. Calling it again changes nothing.
///
/// Clients that build their TLS settings from the process's default panic when two providers are compiled in and none is
/// chosen; so each edge that speaks TLS calls this before it builds a client.
pub fn install_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error says that another thread was faster, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn installing_twice_is_installing_once() {
        super::install_provider();
        super::install_provider();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }
}
