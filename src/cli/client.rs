//! The flags of the commands that ask a running instance.

use secrecy::SecretString;

use super::{Common, Failure};
use crate::edge::api::client::{ApiClient, ApiError};

#[derive(Debug, clap::Args)]
pub(super) struct Instance {
    /// The instance's API; without it, the address that the config lets one listen on
    #[arg(long, value_name = "URL", global = true, env = "FUSEBOX_API")]
    api: Option<String>,
    /// A token for it
    #[arg(long, value_name = "TOKEN", global = true, env = "FUSEBOX_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl Instance {
    pub(super) fn client(&self, common: &Common) -> Result<ApiClient, Failure> {
        let base = match &self.api {
            Some(url) => url.clone(),
            None => {
                let mut listen = common.load()?.config.http.listen;
                if listen.ip().is_unspecified() {
                    listen.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
                }
                format!("http://{listen}")
            }
        };
        Ok(ApiClient::new(&base, self.token.clone().map(SecretString::from)))
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Url(_) => Self::Wrong(error.to_string()),
            ApiError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            ApiError::Refused { .. } | ApiError::Unreadable { .. } => Self::Failed(error.into()),
        }
    }
}

/// A service's name as part of a path.
pub(super) fn path_segment(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
