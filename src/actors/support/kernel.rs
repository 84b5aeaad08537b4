//! What the kernel knows of a connection: how fast it is, what is lost, and what it waits for.

use std::{os::fd::AsFd, sync::OnceLock};

use nix::{
    getsockopt_impl, libc, sockopt_impl,
    sys::socket::{getsockopt, sockopt::GetStruct},
};

/// One connection as its kernel sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    pub rtt_us: u32,
    /// Segments that were sent again.
    pub retransmits: u32,
    /// What the peer is ready to take, in bytes. 0: it does not read ("TCP Window Full").
    pub window: u32,
    /// What the network is trusted to carry, in bytes.
    pub congestion_window: u64,
    /// Bytes in the kernel that have not been sent, and bytes that nobody has acknowledged.
    pub unsent: u32,
    pub unacknowledged: u64,
    /// For how long there was something to send, and for how much of that the peer's window was in the way.
    pub busy_ms: u64,
    pub window_full_ms: u64,
    /// Bits a second, as lately measured.
    pub delivery_rate: u64,
}

impl Kernel {
    /// None: the socket is no TCP, or the kernel is older than Linux 5.4 and knows less than is asked for.
    pub fn of(socket: &impl AsFd) -> Option<Self> {
        if !knows_enough() {
            return None;
        }
        let info = getsockopt(socket, TcpInfo).ok()?;
        let segment = u64::from(info.snd_mss);
        Some(Self {
            rtt_us: info.rtt,
            retransmits: info.total_retrans,
            window: info.snd_wnd,
            congestion_window: u64::from(info.snd_cwnd) * segment,
            unsent: info.notsent_bytes,
            unacknowledged: u64::from(info.unacked) * segment,
            busy_ms: info.busy_time / 1000,
            window_full_ms: info.rwnd_limited / 1000,
            delivery_rate: info.delivery_rate.saturating_mul(8),
        })
    }
}

/// A struct that the kernel does not fill would end the thread in `nix`.
fn knows_enough() -> bool {
    static KNOWS: OnceLock<bool> = OnceLock::new();
    *KNOWS.get_or_init(|| std::fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|text| is_since_5_4(&text)))
}

fn is_since_5_4(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    version >= (5, 4)
}

sockopt_impl!(TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, Info, GetStruct<Info>);

/// `struct tcp_info` of Linux 5.4. That of the `libc` crate ends in the middle.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Info {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    wscale: u8,
    flags: u8,
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
    delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
    bytes_retrans: u64,
    dsack_dups: u32,
    reord_seen: u32,
    rcv_ooopack: u32,
    snd_wnd: u32,
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Write},
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn versions_are_read_whatever_follows_them() {
        for (release, expected) in
            [("5.4.0-1-amd64\n", true), ("6.18.44-x", true), ("5.3.18", false), ("4.19", false), ("x", false)]
        {
            assert_eq!(is_since_5_4(release), expected, "{release}");
        }
    }

    #[test]
    fn a_peer_that_does_not_read_is_seen_by_its_window() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let mut socket = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        let (_peer, _) = listener.accept().expect("it was called");
        let before = Kernel::of(&socket).expect("this kernel is young enough");
        assert!(before.window > 1000 && before.unsent == 0, "{before:?}");
        socket.set_nonblocking(true).expect("a socket");
        let full = loop {
            if let Err(error) = socket.write(&[0; 65536]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let after = Kernel::of(&socket).expect("as before");
        assert!(after.unsent > 0, "{after:?}");
    }

    #[test]
    fn who_is_no_tcp_is_left_out() {
        let (one, _other) = UnixStream::pair().expect("the system makes pairs");
        assert_eq!(Kernel::of(&one), None);
    }
}
