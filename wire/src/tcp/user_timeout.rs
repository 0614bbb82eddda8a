//! The user timeout option (RFC 5482): how long to wait for acknowledgments, by mutual agreement.

use std::time::Duration;

use super::config::TcpOptions;

/// Less is not taken from a peer (L_LIMIT; RFC 9293, section 3.8.3), so that it can not make us
/// give up early.
const LEAST: Duration = Duration::from_secs(100);

/// More is not taken from a peer (U_LIMIT), so that it can not make us hold a dead connection for
/// weeks.
const MOST: Duration = Duration::from_secs(24 * 3600);

/// The option to announce, if `options` say so.
pub(crate) fn announced(options: &TcpOptions) -> Option<u16> {
    options
        .announce_user_timeout
        .then(|| to_option(options.user_timeout))
}

/// The timeout to use when we announced `ours` and the peer `option` (section 3.1): the longer, but
/// no longer than is reasonable. What the application set itself counts in any case.
pub(crate) fn agreed(ours: Duration, option: u16) -> Duration {
    from_option(option).clamp(LEAST, MOST).max(ours)
}

/// What an option means: a bit for minutes, and 15 bits.
fn from_option(option: u16) -> Duration {
    let count = u64::from(option & 0x7fff);
    Duration::from_secs(match option >> 15 {
        1 => count * 60,
        _ => count,
    })
}

/// The option that means `timeout`: seconds if they fit, else minutes.
fn to_option(timeout: Duration) -> u16 {
    let seconds = timeout.as_secs();
    match u16::try_from(seconds) {
        Ok(seconds) if seconds < 0x8000 => seconds,
        _ => 0x8000 | (seconds / 60).min(0x7fff) as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_says_seconds_or_minutes() {
        for seconds in [1, 300, 32_767, 36_000, 60 * 32_767] {
            let timeout = Duration::from_secs(seconds);
            assert_eq!(from_option(to_option(timeout)), timeout);
        }
    }

    #[test]
    fn the_longer_one_counts_within_limits() {
        let seconds = Duration::from_secs;
        assert_eq!(agreed(seconds(200), 300), seconds(300));
        assert_eq!(agreed(seconds(200), 150), seconds(200));
        assert_eq!(agreed(seconds(20), 1), LEAST);
        assert_eq!(agreed(seconds(20), u16::MAX), MOST);
    }
}
