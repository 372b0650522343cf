//! Sessions: a client that hands back the token it was given stays with its endpoint, through any worker of any replica, since the token
//! names the endpoint.

use alloc::format;
use alloc::string::String;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::pool::{Endpoint, EndpointId, Pool};

/// Where a session's token travels.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    /// The header or the cookie.
    pub carrier: Carrier,
    /// Seconds for which a client keeps a cookie; `None`: until it ends.
    pub ttl_seconds: Option<u64>,
}

/// What carries a session's token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Carrier {
    /// A header of that name, in lower case, of request and response.
    Header(String),
    /// A cookie of that name.
    Cookie(String),
}

impl Session {
    /// The token among the headers of a request, whose names are in lower case.
    pub fn token<'a>(&self, mut headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<&'a [u8]> {
        match &self.carrier {
            Carrier::Header(name) => {
                headers.find(|(other, _)| *other == name.as_bytes()).map(|(_, value)| value.trim_ascii())
            }
            Carrier::Cookie(name) => headers
                .filter(|(other, _)| *other == b"cookie")
                .flat_map(|(_, cookies)| cookies.split(|&byte| byte == b';'))
                .find_map(|cookie| cookie.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")),
        }
    }

    /// The name and value of the header that gives a client its token.
    #[must_use]
    pub fn header(&self, token: &str) -> (String, String) {
        match &self.carrier {
            Carrier::Header(name) => (name.clone(), token.into()),
            Carrier::Cookie(name) => {
                let mut cookie = format!("{name}={token}; Path=/; HttpOnly; SameSite=Lax");
                if let Some(seconds) = self.ttl_seconds {
                    cookie.push_str(&format!("; Max-Age={seconds}"));
                }
                ("set-cookie".into(), cookie)
            }
        }
    }
}

/// The token of an endpoint of `pool`: base64 of `namespace/pod`, or of the address where discovery knows no pod, which is as the endpoint picker has
/// it. `:port` follows where several ports of the pod are members, each of which is an engine with a cache of its own.
#[must_use]
pub fn token(pool: &Pool, endpoint: &Endpoint) -> String {
    let identity = endpoint.identity();
    if identity.pod.is_empty() {
        return STANDARD.encode(endpoint.destination());
    }
    let (namespace, pod) = (&identity.namespace, &identity.pod);
    let mut members = pool.members().iter().filter_map(|&id| pool.endpoint(id)).map(Endpoint::identity);
    let has_several = members.any(|other| {
        (&other.namespace, &other.pod) == (namespace, pod) && other.address.port() != identity.address.port()
    });
    if has_several {
        STANDARD.encode(format!("{namespace}/{pod}:{}", identity.address.port()))
    } else {
        STANDARD.encode(format!("{namespace}/{pod}"))
    }
}

/// The member that a token names.
#[must_use]
pub fn find(pool: &Pool, token: &[u8]) -> Option<EndpointId> {
    let name = STANDARD.decode(token).ok()?;
    let name = core::str::from_utf8(&name).ok()?;
    let is_named = |endpoint: &Endpoint| {
        let identity = endpoint.identity();
        match name.split_once('/') {
            Some((namespace, pod)) => {
                let (pod, port) = pod.split_once(':').map_or((pod, None), |(pod, port)| (pod, Some(port)));
                let is_port = port.is_none_or(|port| port.parse() == Ok(identity.address.port()));
                identity.namespace == namespace && identity.pod == pod && !pod.is_empty() && is_port
            }
            None => identity.pod.is_empty() && endpoint.destination() == name,
        }
    };
    pool.members().iter().copied().find(|&id| pool.endpoint(id).is_some_and(is_named))
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use snapshot::{EndpointIdentity, Membership, PoolMembers};

    use super::*;

    #[test]
    fn a_token_names_one_member_and_nonsense_none() {
        let named = |pod: &str, last: u8| EndpointIdentity {
            pod: pod.into(),
            namespace: "ns".into(),
            ..EndpointIdentity::unnamed(([10, 0, 0, last], 80).into())
        };
        let nameless = EndpointIdentity::unnamed(([10, 0, 0, 3], 80).into());
        let endpoints = vec![named("a", 1), named("b", 2), nameless];
        let pools = vec![PoolMembers { name: "p".into(), endpoints, ..PoolMembers::default() }];
        let mut pool = Pool::default();
        pool.install_membership(&Membership { epoch: 1, version: 1, pools }, "p");
        for &id in pool.members() {
            assert_eq!(find(&pool, token(&pool, pool.endpoint(id).unwrap()).as_bytes()), Some(id));
        }
        assert_eq!(token(&pool, pool.endpoint(pool.members()[0]).unwrap()), "bnMvYQ==");
        for name in ["ns/c", "ns/", "10.0.0.1:80", ""] {
            assert_eq!(find(&pool, STANDARD.encode(name).as_bytes()), None, "{name}");
        }
        assert_eq!(find(&pool, b"%%%"), None);
    }

    #[test]
    fn a_token_names_one_of_several_ports_of_a_pod() {
        let at = |port: u16| EndpointIdentity {
            pod: "a".into(),
            namespace: "ns".into(),
            ..EndpointIdentity::unnamed(([10, 0, 0, 1], port).into())
        };
        let pools =
            vec![PoolMembers { name: "p".into(), endpoints: vec![at(8000), at(8001)], ..PoolMembers::default() }];
        let mut pool = Pool::default();
        pool.install_membership(&Membership { epoch: 1, version: 1, pools }, "p");
        for &id in pool.members() {
            let token = token(&pool, pool.endpoint(id).unwrap());
            assert_eq!(find(&pool, token.as_bytes()), Some(id), "each port is an engine with a cache of its own");
        }
        assert_eq!(find(&pool, STANDARD.encode("ns/a").as_bytes()), Some(pool.members()[0]));
        assert_eq!(find(&pool, STANDARD.encode("ns/a:8002").as_bytes()), None);
    }

    #[test]
    fn a_token_is_found_in_its_header_or_among_cookies() {
        let headers: [(&[u8], &[u8]); 4] = [
            (b"cookie", b"a=1; podx=no"),
            (b"x-session-token", b" abc "),
            (b"cookie", b"b=2;pod=dG9r; c"),
            (b"pod", b"no"),
        ];
        let session = |carrier| Session { carrier, ttl_seconds: Some(60) };
        let header = session(Carrier::Header("x-session-token".into()));
        assert_eq!(header.token(headers.into_iter()), Some(&b"abc"[..]));
        assert_eq!(header.header("t"), ("x-session-token".into(), "t".into()));
        let cookie = session(Carrier::Cookie("pod".into()));
        assert_eq!(cookie.token(headers.into_iter()), Some(&b"dG9r"[..]));
        assert_eq!(cookie.token([].into_iter()), None);
        let set = "pod=t; Path=/; HttpOnly; SameSite=Lax; Max-Age=60";
        assert_eq!(cookie.header("t"), ("set-cookie".into(), set.into()));
    }
}
