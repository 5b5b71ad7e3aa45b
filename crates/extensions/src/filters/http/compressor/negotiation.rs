//! Which of the compressors in a chain a client gets: its `accept-encoding` against what they offer.

use sota_plugin::info::{FilterState, FilterStateValue};
use std::{
    any::Any,
    cell::{OnceCell, RefCell},
    rc::Rc,
};

/// What a compressor offers.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    /// As in `content-encoding`.
    pub(super) coding: &'static str,
    /// It wins against others that the client likes as much.
    pub(super) choose_first: bool,
}

/// What the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Coding(&'static str),
    /// Anything would do: the first one.
    Wildcard(&'static str),
    Identity,
    /// There is nothing that both can.
    NotValid,
}

impl Choice {
    /// The coding of the response.
    pub(super) fn coding(self) -> Option<&'static str> {
        match self {
            Self::Coding(coding) | Self::Wildcard(coding) => Some(coding),
            Self::Identity | Self::NotValid => None,
        }
    }
}

/// Takes the choice. `offers`: in the order of the chain.
pub(super) fn choose(accept_encoding: &str, offers: &[Offer]) -> Choice {
    let mut allowed: Vec<&Offer> = Vec::new();
    for offer in offers {
        if !allowed.iter().any(|known| known.coding == offer.coding) {
            allowed.push(offer);
        }
    }
    let wishes: Vec<(&str, f32)> = accept_encoding.split(',').filter_map(wish).collect();
    allowed.retain(|offer| !wishes.iter().any(|(name, quality)| *quality == 0.0 && *name == offer.coding));
    if wishes.is_empty() || allowed.is_empty() {
        return Choice::NotValid;
    }
    let mut best = ("identity", 0.0);
    for (name, quality) in wishes {
        let offer = allowed.iter().find(|offer| offer.coding == name);
        let is_possible = offer.is_some() || name == "identity" || name == "*";
        let wins_tie = quality == best.1 && offer.is_some_and(|offer| offer.choose_first);
        if is_possible && (quality > best.1 || wins_tie) {
            best = (name, quality);
        }
    }
    match best {
        (_, 0.0) => Choice::NotValid,
        ("identity", _) => Choice::Identity,
        ("*", _) => allowed.first().map_or(Choice::NotValid, |offer| Choice::Wildcard(offer.coding)),
        (name, _) => allowed
            .iter()
            .find(|offer| offer.coding == name)
            .map_or(Choice::NotValid, |offer| Choice::Coding(offer.coding)),
    }
}

/// A coding with its quality; `None` for an empty one or one whose quality cannot be read.
fn wish(item: &str) -> Option<(&str, f32)> {
    let (name, parameters) = item.split_once(';').map_or((item, None), |(name, rest)| (name, Some(rest)));
    let name = name.trim();
    if name.is_empty() {
        return None;
    }
    let quality = parameters.and_then(|parameters| {
        let (key, value) = parameters.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then_some(value)
    });
    match quality {
        Some(text) => Some((name, text.trim().parse().ok()?)),
        None => Some((name, 1.0)),
    }
}

/// What the compressors of a stream know of each other.
#[derive(Default)]
pub(super) struct Negotiation {
    pub(super) offers: RefCell<Vec<Rc<dyn Candidate>>>,
    /// Taken by the first one that is asked, for all.
    pub(super) choice: OnceCell<Choice>,
}

/// A compressor of the chain.
pub(super) trait Candidate {
    /// What it offers for a response of this content type.
    fn offer(&self, content_type: Option<&[u8]>) -> Option<Offer>;
}

impl Negotiation {
    const NAME: &str = "compressors";

    /// The one of the stream.
    pub(super) fn of(state: &mut FilterState) -> Rc<Self> {
        if let Some(Shared(negotiation)) = state.get(Self::NAME) {
            return Rc::clone(negotiation);
        }
        let negotiation = Rc::new(Self::default());
        state.set(Self::NAME, Rc::new(Shared(Rc::clone(&negotiation))));
        negotiation
    }
}

struct Shared(Rc<Negotiation>);

impl FilterStateValue for Shared {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_likes_best() {
        let offer = |coding, choose_first| Offer { coding, choose_first };
        let both = [offer("gzip", false), offer("br", false)];
        for (accept, expected) in [
            ("gzip", Choice::Coding("gzip")),
            ("gzip, br", Choice::Coding("gzip")),
            ("gzip;q=0.5, br;q=0.8", Choice::Coding("br")),
            ("gzip; q=0.5,br ; Q = 0.8", Choice::Coding("br")),
            ("deflate, gzip;q=0.1", Choice::Coding("gzip")),
            ("*", Choice::Wildcard("gzip")),
            ("gzip;q=0, *", Choice::Wildcard("br")),
            ("identity", Choice::Identity),
            ("identity, gzip;q=0.5", Choice::Identity),
            ("", Choice::NotValid),
            (" , ", Choice::NotValid),
            ("deflate", Choice::NotValid),
            ("gzip;q=0", Choice::NotValid),
            ("gzip;q=x", Choice::NotValid),
            ("gzip;level=3", Choice::Coding("gzip")),
        ] {
            assert_eq!(choose(accept, &both), expected, "{accept}");
        }
        assert_eq!(choose("gzip, br", &[offer("gzip", false), offer("br", true)]), Choice::Coding("br"));
        assert_eq!(choose("gzip", &[]), Choice::NotValid);
    }
}
