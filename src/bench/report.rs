//! The result of a run, for people and for scripts.

use std::fmt;

use serde::Serialize;

use super::BenchArgs;
use super::histogram::Histogram;
use super::load::Outcome;
use super::poll::Polled;

/// One object whose fields have names of their own, so that a shell script finds each by its name.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub url: String,
    pub window_s: f64,
    pub publishers: usize,
    pub publishers_live: usize,
    pub publishers_cut_off: usize,
    pub players: usize,
    pub players_ready: usize,
    pub players_cut_off: usize,
    pub idle: usize,
    pub idle_ready: usize,
    pub idle_cut_off: usize,
    pub slow: usize,
    /// Those that were reset. Who never reads does not see a close that queues behind what was sent before.
    pub slow_cut_off: usize,
    pub frames_lost: u64,
    pub frames_duplicated: u64,
    pub frames_reordered: u64,
    /// Of another stream than the one that was asked for.
    pub frames_foreign: u64,
    /// Video frames in the window, of the player with the fewest and the one with the most.
    pub frames_per_player_min: u64,
    pub frames_per_player_max: u64,
    pub video_latency_ms_p50: f64,
    pub video_latency_ms_p90: f64,
    pub video_latency_ms_p99: f64,
    pub video_latency_ms_p999: f64,
    pub video_latency_ms_max: f64,
    pub audio_latency_ms_p50: f64,
    pub audio_latency_ms_p99: f64,
    pub audio_latency_ms_max: f64,
    /// From before the TCP connection to the answer to `connect`.
    pub connect_ms_p50: f64,
    pub connect_ms_p99: f64,
    /// From before the TCP connection to the first whole keyframe.
    pub connect_to_key_ms_p50: f64,
    pub connect_to_key_ms_p99: f64,
    /// From the play command to the first whole keyframe.
    pub play_to_key_ms_p50: f64,
    pub play_to_key_ms_p99: f64,
    /// How late this tool itself sent frames.
    pub tool_delay_ms_p99: f64,
    pub tool_delay_ms_max: f64,
    /// Of one core. Near 1 the latencies are the tool's and not the server's.
    pub tool_cpu_share: f64,
    pub received_mbit_per_s: f64,
    pub server_cpu_us_per_player_s: Option<f64>,
    /// Of one core.
    pub server_cpu_share: Option<f64>,
    pub server_rss_mib: Option<f64>,
    /// What each player, slow player and idle connection added.
    pub server_rss_kib_per_connection: Option<f64>,
    pub server_processes: Option<usize>,
    pub polls: Vec<Poll>,
    pub complaints: Vec<String>,
}

/// An address that was asked during the measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Poll {
    pub poll_url: String,
    /// Whole ones with status 200. All that follows is of these.
    pub poll_answers: u64,
    pub poll_failures: u64,
    pub poll_bytes: u64,
    /// From before the TCP connection to the last byte.
    pub poll_ms_p50: f64,
    pub poll_ms_p99: f64,
    pub poll_ms_max: f64,
    /// Why the first one failed.
    pub poll_complaint: Option<String>,
}

impl Report {
    pub fn new(args: &BenchArgs, outcome: &Outcome) -> Self {
        let tally = &outcome.tally;
        let window_s = outcome.window_ns as f64 / 1e9;
        let share = |ns: u64| round(ns as f64 / outcome.window_ns.max(1) as f64);
        let server_ns = outcome.server.map(|[_, start, end]| end.cpu_ns_since(&start));
        let listening = outcome.players_ready.saturating_sub(outcome.players_cut_off);
        // Who was cut off costs nothing any more.
        let joined = (outcome.players_ready + args.slow + outcome.idle_ready)
            .saturating_sub(outcome.players_cut_off + outcome.slow_cut_off + outcome.idle_cut_off);
        Self {
            url: args.url.clone(),
            window_s: round(window_s),
            publishers: args.publishers,
            publishers_live: outcome.publishers_live,
            publishers_cut_off: outcome.publishers_cut_off,
            players: args.players,
            players_ready: outcome.players_ready,
            players_cut_off: outcome.players_cut_off,
            idle: args.idle,
            idle_ready: outcome.idle_ready,
            idle_cut_off: outcome.idle_cut_off,
            slow: args.slow,
            slow_cut_off: outcome.slow_cut_off,
            frames_lost: tally.lost,
            frames_duplicated: tally.duplicates,
            frames_reordered: tally.reordered,
            frames_foreign: tally.foreign,
            frames_per_player_min: outcome.frames_min,
            frames_per_player_max: outcome.frames_max,
            video_latency_ms_p50: ms(&tally.video_latency_ns, 0.5),
            video_latency_ms_p90: ms(&tally.video_latency_ns, 0.9),
            video_latency_ms_p99: ms(&tally.video_latency_ns, 0.99),
            video_latency_ms_p999: ms(&tally.video_latency_ns, 0.999),
            video_latency_ms_max: ms(&tally.video_latency_ns, 1.0),
            audio_latency_ms_p50: ms(&tally.audio_latency_ns, 0.5),
            audio_latency_ms_p99: ms(&tally.audio_latency_ns, 0.99),
            audio_latency_ms_max: ms(&tally.audio_latency_ns, 1.0),
            connect_ms_p50: ms(&outcome.connect_ns, 0.5),
            connect_ms_p99: ms(&outcome.connect_ns, 0.99),
            connect_to_key_ms_p50: ms(&tally.connect_to_key_ns, 0.5),
            connect_to_key_ms_p99: ms(&tally.connect_to_key_ns, 0.99),
            play_to_key_ms_p50: ms(&tally.play_to_key_ns, 0.5),
            play_to_key_ms_p99: ms(&tally.play_to_key_ns, 0.99),
            tool_delay_ms_p99: ms(&outcome.lateness_ns, 0.99),
            tool_delay_ms_max: ms(&outcome.lateness_ns, 1.0),
            tool_cpu_share: share(outcome.tool_cpu_ns),
            received_mbit_per_s: round(outcome.received_bytes as f64 * 8e-6 / window_s.max(1e-9)),
            server_cpu_us_per_player_s: server_ns
                .filter(|_| listening > 0)
                .map(|ns| round(ns as f64 / 1e3 / listening as f64 / window_s.max(1e-9))),
            server_cpu_share: server_ns.map(share),
            server_rss_mib: outcome.server.map(|[_, _, end]| round(end.rss_bytes as f64 / f64::from(1 << 20))),
            server_rss_kib_per_connection: outcome.server.filter(|_| joined > 0).map(|[before, _, end]| {
                round((end.rss_bytes as f64 - before.rss_bytes as f64) / 1024.0 / joined as f64)
            }),
            server_processes: outcome.server.map(|[_, _, end]| end.processes),
            polls: outcome.polled.iter().map(Poll::new).collect(),
            complaints: outcome.complaints.clone(),
        }
    }

    /// Everybody got in and stayed, and got every frame once and in order; whoever asked got an answer.
    pub fn is_clean(&self) -> bool {
        self.publishers_live == self.publishers
            && self.players_ready == self.players
            && self.idle_ready == self.idle
            && self.publishers_cut_off + self.players_cut_off + self.idle_cut_off == 0
            && self.frames_lost + self.frames_duplicated + self.frames_reordered + self.frames_foreign == 0
            && self.polls.iter().all(|poll| poll.poll_failures == 0 && poll.poll_answers > 0)
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings are always JSON")
    }
}

impl Poll {
    fn new(polled: &Polled) -> Self {
        Self {
            poll_url: polled.url.clone(),
            poll_answers: polled.answer_ns.count(),
            poll_failures: polled.failures,
            poll_bytes: polled.bytes,
            poll_ms_p50: ms(&polled.answer_ns, 0.5),
            poll_ms_p99: ms(&polled.answer_ns, 0.99),
            poll_ms_max: ms(&polled.answer_ns, 1.0),
            poll_complaint: polled.complaint.clone(),
        }
    }
}

impl fmt::Display for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { poll_url, poll_answers, poll_failures, poll_ms_p50, poll_ms_p99, poll_ms_max, .. } = self;
        let each = self.poll_bytes.checked_div(*poll_answers).unwrap_or_default() / 1024;
        write!(f, "{poll_answers} answers of {each} KiB")?;
        if let Some(complaint) = &self.poll_complaint {
            write!(f, ", {poll_failures} failed ({complaint})")?;
        }
        write!(f, ", p50 {poll_ms_p50}  p99 {poll_ms_p99}  max {poll_ms_max} ms  {poll_url}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} for {:.1} s", self.url, self.window_s)?;
        let cut_off = |count: usize| if count == 0 { String::new() } else { format!(", {count} cut off") };
        let publishers = format!("{} of {}{}", self.publishers_live, self.publishers, cut_off(self.publishers_cut_off));
        row(f, "publishers", &publishers)?;
        row(f, "players", &format!("{} of {}{}", self.players_ready, self.players, cut_off(self.players_cut_off)))?;
        if self.idle > 0 {
            row(f, "idle", &format!("{} of {}{}", self.idle_ready, self.idle, cut_off(self.idle_cut_off)))?;
        }
        if self.slow > 0 {
            row(f, "never reading", &format!("{}{}", self.slow, cut_off(self.slow_cut_off)))?;
        }
        if self.players > 0 {
            let wrong: Vec<String> = [
                (self.frames_lost, "lost"),
                (self.frames_duplicated, "doubled"),
                (self.frames_reordered, "out of order"),
                (self.frames_foreign, "of another stream"),
            ]
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
            let wrong = if wrong.is_empty() { "none lost".to_owned() } else { wrong.join(", ") };
            let (min, max) = (self.frames_per_player_min, self.frames_per_player_max);
            row(f, "video frames", &format!("{min} to {max} a player, {wrong}"))?;
            row(
                f,
                "video latency",
                &format!(
                    "p50 {}  p90 {}  p99 {}  p99.9 {}  max {} ms",
                    self.video_latency_ms_p50,
                    self.video_latency_ms_p90,
                    self.video_latency_ms_p99,
                    self.video_latency_ms_p999,
                    self.video_latency_ms_max
                ),
            )?;
            row(
                f,
                "audio latency",
                &format!(
                    "p50 {}  p99 {}  max {} ms",
                    self.audio_latency_ms_p50, self.audio_latency_ms_p99, self.audio_latency_ms_max
                ),
            )?;
            row(
                f,
                "first keyframe",
                &format!(
                    "p50 {}  p99 {} ms from connecting, p50 {}  p99 {} ms from the play command",
                    self.connect_to_key_ms_p50,
                    self.connect_to_key_ms_p99,
                    self.play_to_key_ms_p50,
                    self.play_to_key_ms_p99
                ),
            )?;
        }
        row(f, "connect answered", &format!("p50 {}  p99 {} ms", self.connect_ms_p50, self.connect_ms_p99))?;
        if let (Some(share), Some(rss)) = (self.server_cpu_share, self.server_rss_mib) {
            let each = self
                .server_cpu_us_per_player_s
                .map_or(String::new(), |each| format!(", {each} µs a player and second"));
            row(f, "server CPU", &format!("{:.1} % of a core{each}", share * 100.0))?;
            let each =
                self.server_rss_kib_per_connection.map_or(String::new(), |each| format!(", {each} KiB a connection"));
            row(f, "server memory", &format!("{rss} MiB{each}"))?;
        }
        row(
            f,
            "this tool",
            &format!(
                "{:.1} % of a core, {} Mbit/s received, frames sent late by p99 {}  max {} ms",
                self.tool_cpu_share * 100.0,
                self.received_mbit_per_s,
                self.tool_delay_ms_p99,
                self.tool_delay_ms_max
            ),
        )?;
        if self.tool_cpu_share > BUSY {
            row(f, "", "the tool is short of CPU time itself: its latencies are not the server's")?;
        }
        for poll in &self.polls {
            row(f, "polled", &poll.to_string())?;
        }
        for complaint in &self.complaints {
            row(f, "complaint", complaint)?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, what: &str, text: &str) -> fmt::Result {
    writeln!(f, "  {what:<18}{text}")
}

fn ms(histogram: &Histogram, fraction: f64) -> f64 {
    let ns = if fraction < 1.0 { histogram.quantile(fraction) } else { histogram.max() };
    round(ns as f64 / 1e6)
}

/// To four digits: more would be noise.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let factor = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * factor).round() / factor
}

/// Share of a core above which the tool waits for itself.
const BUSY: f64 = 0.85;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_four_digits() {
        assert_eq!([0.0, 0.000_123_456, 1.234_56, 98_765.4].map(round), [0.0, 0.000_123_5, 1.235, 98_770.0]);
    }
}
