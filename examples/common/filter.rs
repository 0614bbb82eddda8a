//! Filters as text: `arp`, `udp port 53`, `host 10.0.0.1 and icmp`.

use virtroupe::Filter;

/// The filter that `text` describes: terms joined by `and`.
///
/// # Errors
/// When a term is not known; says which are.
pub fn parse(text: &str) -> Result<Filter, String> {
    let mut filters = text.split(" and ").map(term);
    let first = filters.next().unwrap_or(Ok(Filter::All))?;
    filters.try_fold(first, |all, next| Ok(all.and(next?)))
}

fn term(text: &str) -> Result<Filter, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let filter = match words.as_slice() {
        ["all"] => Filter::All,
        ["arp"] => Filter::EtherType(0x0806),
        ["ip"] => Filter::EtherType(0x0800),
        ["ip6"] => Filter::EtherType(0x86dd),
        ["icmp"] => Filter::Protocol(1),
        ["tcp"] => Filter::Protocol(6),
        ["udp"] => Filter::Protocol(17),
        ["port", port] => Filter::Port(port.parse().map_err(|error| format!("{port}: {error}"))?),
        ["host", host] => Filter::Host(host.parse().map_err(|error| format!("{host}: {error}"))?),
        [protocol @ ("tcp" | "udp"), rest @ ..] => term(protocol)?.and(term(&rest.join(" "))?),
        _ => {
            return Err(format!(
                "no filter '{text}'; there are all, arp, ip, ip6, icmp, tcp, udp, [tcp|udp] port N, \
                 host IP, and what these give joined by 'and'"
            ));
        }
    };
    Ok(filter)
}
