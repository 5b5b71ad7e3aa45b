//! An answer of `/stats`, piece by piece.

use super::{
    Inner,
    json::JsonRenderer,
    merge::{MergedStats, Order, Summed},
    prometheus::PrometheusRenderer,
    query::{Format, StatsQuery},
    text::TextRenderer,
};
use sota_plugin::stats::Kind;
use std::sync::Arc;

/// The pieces of an answer: about [`Output::PIECE`] bytes each, made when they are asked for. What is alive stays alive as long as this
/// exists, a removed cluster's counters too, so an answer that nobody reads has to be dropped some time.
pub struct Output {
    store: Arc<Inner>,
    query: StatsQuery,
    renderer: Option<Renderer>,
}

enum Renderer {
    List(List, Box<dyn ListRenderer + Send>),
    Prometheus(Box<PrometheusRenderer>),
}

/// Stats one after the other, kind by kind: text readouts, then counters and gauges, then histograms.
struct List {
    phases: std::slice::Iter<'static, &'static [Kind]>,
    stats: Option<MergedStats>,
}

/// Writes one stat after the other.
pub(super) trait ListRenderer {
    fn begin(&mut self, out: &mut Vec<u8>);
    fn stat(&mut self, out: &mut Vec<u8>, store: &Inner, name: &str, stat: &Summed);
    fn end(&mut self, out: &mut Vec<u8>);
}

impl Output {
    /// Bytes of a piece, more or less.
    pub const PIECE: usize = 32 * 1024;

    pub(super) fn new(store: Arc<Inner>, query: StatsQuery) -> Self {
        let list = List { phases: PHASES.iter(), stats: None };
        let renderer = match query.format {
            Format::Text => Renderer::List(list, Box::new(TextRenderer::new(query.buckets))),
            Format::Json => Renderer::List(list, Box::new(JsonRenderer::new(query.buckets))),
            Format::Prometheus => Renderer::Prometheus(Box::new(PrometheusRenderer::new(&query))),
        };
        Self { store, query, renderer: Some(renderer) }
    }

    /// What the answer's `content-type` is.
    pub fn content_type(&self) -> &'static str {
        self.query.format.content_type()
    }
}

impl Iterator for Output {
    type Item = Vec<u8>;

    /// The next piece, never empty.
    fn next(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < Self::PIECE
            && let Some(renderer) = &mut self.renderer
        {
            let more = match renderer {
                Renderer::List(list, renderer) => list.step(&mut out, &self.store, &self.query, &mut **renderer),
                Renderer::Prometheus(renderer) => renderer.step(&mut out, &self.store, &self.query),
            };
            if !more {
                self.renderer = None;
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

impl List {
    fn step(&mut self, out: &mut Vec<u8>, store: &Inner, query: &StatsQuery, renderer: &mut dyn ListRenderer) -> bool {
        let Some(stats) = &mut self.stats else {
            if self.phases.len() == PHASES.len() {
                renderer.begin(out);
            }
            let Some(kinds) = self.phases.next() else {
                renderer.end(out);
                return false;
            };
            if kinds.iter().any(|kind| query.wants(*kind)) {
                self.stats = Some(MergedStats::new(store.registry.scopes(), kinds, Order::Bytes));
            }
            return true;
        };
        match stats.next_wanted(store, query) {
            Some((name, _, stat)) => renderer.stat(out, store, &name, &stat),
            None => self.stats = None,
        }
        true
    }
}

const PHASES: [&[Kind]; 3] = [&[Kind::TextReadout], &[Kind::Counter, Kind::Gauge], &[Kind::Histogram]];
