//! Statistics as the modules write XML.
//!
//! By hand, and not with a library: which elements have a line of their own is part of the document, and so is what becomes of
//! bytes beyond ASCII. Scripts read it with `grep` and `sed`.

use std::fmt::{Display, Write};

use super::document::{
    ApplicationPart, AudioPart, ClientPart, Document, LivePart, MetaPart, RTMP_VERSION, ServerPart, StreamPart,
    VideoPart,
};
use crate::config::http::statistics::{Form, Statistics};

/// The whole document.
pub fn write(document: &Document<'_>, rules: &Statistics) -> String {
    let mut xml = Xml { text: String::new(), is_http_flv: rules.form == Form::HttpFlv };
    xml.text.push_str("<?xml version=\"1.0\" encoding=\"utf-8\" ?>\r\n");
    if !rules.stylesheet.is_empty() {
        xml.text.push_str("<?xml-stylesheet type=\"text/xsl\" href=\"");
        xml.escaped(&rules.stylesheet);
        xml.text.push_str("\" ?>\r\n");
    }
    let root = if xml.is_http_flv { "http-flv" } else { "rtmp" };
    xml.block(root, |xml| xml.document(document));
    xml.text
}

struct Xml {
    text: String,
    is_http_flv: bool,
}

impl Xml {
    fn document(&mut self, document: &Document<'_>) {
        self.line("nginx_version", document.nginx_version);
        match self.is_http_flv {
            true => self.line("nginx_http_flv_version", document.module_version),
            false => self.line("nginx_rtmp_version", RTMP_VERSION),
        }
        self.line("compiler", document.compiler);
        self.line("built", document.built);
        self.line("pid", document.pid);
        self.line("uptime", document.uptime);
        self.line("naccepted", document.naccepted);
        self.line("bw_in", document.bw_in);
        self.line("bytes_in", document.bytes_in);
        self.line("bw_out", document.bw_out);
        self.line("bytes_out", document.bytes_out);
        for server in &document.servers {
            self.block("server", |xml| xml.server(server));
        }
    }

    fn server(&mut self, server: &ServerPart<'_>) {
        if self.is_http_flv {
            self.line("port", server.port);
            self.line("server_index", server.server_index);
        }
        for application in &server.applications {
            self.block("application", |xml| xml.application(application));
        }
    }

    fn application(&mut self, application: &ApplicationPart<'_>) {
        self.name(application.name);
        if let Some(live) = &application.live {
            self.block("live", |xml| xml.live(live));
        }
        if let Some(recorders) = application.recorders.as_ref().filter(|_| self.is_http_flv) {
            self.block("recorders", |xml| xml.line("count", recorders.count));
        }
    }

    fn live(&mut self, live: &LivePart<'_>) {
        for stream in &live.streams {
            self.block("stream", |xml| xml.stream(stream));
        }
        self.line("nclients", live.nclients);
    }

    fn stream(&mut self, stream: &StreamPart<'_>) {
        self.name(stream.name);
        self.part("time", stream.time);
        self.line("bw_in", stream.bw_in);
        self.line("bytes_in", stream.bytes_in);
        self.line("bw_out", stream.bw_out);
        self.line("bytes_out", stream.bytes_out);
        self.line("bw_audio", stream.bw_audio);
        self.line("bw_video", stream.bw_video);
        for client in stream.clients.iter().flatten() {
            self.parts("client", |xml| xml.client(client));
            self.end_line();
        }
        if self.is_http_flv {
            self.block("records", |_| {});
        }
        if let Some(meta) = &stream.meta {
            self.parts("meta", |xml| xml.meta(meta));
            self.end_line();
        }
        self.line("nclients", stream.nclients);
        for (name, is) in [("publishing", stream.publishing), ("active", stream.active)] {
            if is {
                self.empty(name);
                self.end_line();
            }
        }
    }

    fn client(&mut self, client: &ClientPart<'_>) {
        self.part("id", client.id);
        self.part("address", &client.address);
        self.part("time", client.time);
        for (name, text) in [("flashver", client.flashver), ("pageurl", client.pageurl), ("swfurl", client.swfurl)] {
            if !text.is_empty() {
                self.text_part(name, text);
            }
        }
        self.part("dropped", client.dropped);
        match client.avsync {
            None if !self.is_http_flv => self.part("avsync", ""),
            offset_ms => self.part("avsync", offset_ms.unwrap_or_default()),
        }
        self.part("timestamp", client.timestamp);
        for (name, is) in [("publishing", client.publishing), ("active", client.active)] {
            if is {
                self.empty(name);
                self.end_part();
            }
        }
    }

    fn meta(&mut self, meta: &MetaPart) {
        self.parts("video", |xml| xml.video(&meta.video));
        self.end_part();
        self.parts("audio", |xml| xml.audio(&meta.audio));
        self.end_part();
    }

    fn video(&mut self, video: &VideoPart) {
        self.part("width", video.width);
        self.part("height", video.height);
        match self.is_http_flv {
            true => self.part("frame_rate", format_args!("{:.3}", video.frame_rate)),
            // What is behind the point is cut off, as there.
            false => self.part("frame_rate", video.frame_rate.trunc()),
        }
        self.optional("codec", video.codec);
        self.optional("profile", video.profile);
        let has_compat = if self.is_http_flv { video.compat != Some(0) } else { video.level.is_some() };
        self.optional("compat", video.compat.filter(|_| has_compat));
        self.optional("level", video.level.map(|level| format!("{level:.1}")));
    }

    fn audio(&mut self, audio: &AudioPart) {
        self.optional("codec", audio.codec);
        self.optional("profile", audio.profile);
        self.optional("channels", audio.channels);
        self.optional("sample_rate", audio.sample_rate);
    }

    /// An element around others, each tag on a line of its own.
    fn block(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        let _ = write!(self.text, "<{name}>\r\n");
        inside(self);
        let _ = write!(self.text, "</{name}>\r\n");
    }

    /// An element around others, all on one line but in the dialect of nginx-http-flv-module.
    fn parts(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        let _ = write!(self.text, "<{name}>");
        self.end_part();
        inside(self);
        let _ = write!(self.text, "</{name}>");
    }

    fn line(&mut self, name: &str, value: impl Display) {
        let _ = write!(self.text, "<{name}>{value}</{name}>\r\n");
    }

    fn part(&mut self, name: &str, value: impl Display) {
        let _ = write!(self.text, "<{name}>{value}</{name}>");
        self.end_part();
    }

    fn optional(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.part(name, value);
        }
    }

    fn text_part(&mut self, name: &str, text: &str) {
        let _ = write!(self.text, "<{name}>");
        self.escaped(text);
        let _ = write!(self.text, "</{name}>");
        self.end_part();
    }

    fn name(&mut self, name: &str) {
        self.text.push_str("<name>");
        self.escaped(name);
        self.text.push_str("</name>\r\n");
    }

    fn empty(&mut self, name: &str) {
        let _ = write!(self.text, "<{name}/>");
    }

    fn end_line(&mut self) {
        self.text.push_str("\r\n");
    }

    fn end_part(&mut self) {
        if self.is_http_flv {
            self.end_line();
        }
    }

    /// As the modules escape text: what XML needs, and a blank for each byte that is not plain ASCII.
    fn escaped(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                b'<' => self.text.push_str("&lt;"),
                b'>' => self.text.push_str("&gt;"),
                b'&' => self.text.push_str("&amp;"),
                b'"' => self.text.push_str("&quot;"),
                0x20..0x7f => self.text.push(char::from(byte)),
                _ => self.text.push(' '),
            }
        }
    }
}
