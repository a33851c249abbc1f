//! Owns response bodies: whole answers, watch streams and log streams. Must not decide what is sent.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::StreamExt as _;
use http_body::Frame;

use super::Api;
use crate::encode::Form;
use crate::fault::{Delivery, Fault};
use crate::handler::{Cursor, Step, WatchEvent};
use crate::object;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bookmarks are sent this often, as kube-apiserver does.
const BOOKMARK: Duration = Duration::from_secs(60);

/// A response body.
pub enum Body {
    /// All at once.
    Whole(Option<Bytes>),
    /// Piece by piece.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>),
}

impl Body {
    /// A whole answer.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()))
    }

    /// A stream of pieces.
    pub fn stream(pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Self {
        Self::Stream(Box::pin(pieces))
    }

    pub(super) fn watch(
        api: Api,
        cursor: Cursor,
        form: Form,
        fault: Option<Arc<dyn Fault>>,
    ) -> Self {
        let now = tokio::time::Instant::now();
        let watch = Watch {
            end: now + Duration::from_secs(cursor.timeout),
            bookmark: now + BOOKMARK,
            api,
            cursor,
            form,
            fault,
            headed: false,
            over: false,
            held: VecDeque::new(),
        };
        Self::stream(
            futures::stream::unfold(watch, |mut watch| async move {
                let piece = watch.piece().await?;
                Some((piece, watch))
            })
            .fuse(),
        )
    }
}

struct Watch {
    api: Api,
    cursor: Cursor,
    form: Form,
    fault: Option<Arc<dyn Fault>>,
    end: tokio::time::Instant,
    bookmark: tokio::time::Instant,
    /// Whether the table's columns were sent (only the first event carries them).
    headed: bool,
    over: bool,
    /// Events to be sent without another look at faults.
    held: VecDeque<WatchEvent>,
}

impl Watch {
    /// The next piece of text, `None` at the end.
    async fn piece(&mut self) -> Option<Result<Bytes, BoxError>> {
        while !self.over {
            if let Some(event) = self.held.pop_front() {
                return Some(Ok(self.line(&event)));
            }
            match self.api.with(|core| self.cursor.next(core)) {
                Step::Event(event) => {
                    if let Some(piece) = self.disturb(event).await {
                        return Some(piece);
                    }
                }
                Step::Last(event) => {
                    self.over = true;
                    return Some(Ok(self.line(&event)));
                }
                Step::Idle => {
                    let wake = if self.cursor.bookmarks {
                        self.bookmark.min(self.end)
                    } else {
                        self.end
                    };
                    tokio::select! {
                        // Changes first: a change at the moment of the end is still delivered.
                        biased;
                        changed = self.cursor.changed.changed() => {
                            if changed.is_err() {
                                return None;
                            }
                        }
                        () = tokio::time::sleep_until(wake) => {
                            if wake == self.end {
                                return None;
                            }
                            self.bookmark = wake + BOOKMARK;
                            let bookmark = self.cursor.bookmark();
                            return Some(Ok(self.line(&bookmark)));
                        }
                    }
                }
            }
        }
        None
    }

    /// The event's text after faults; `None` when the watch was closed before it.
    async fn disturb(&mut self, event: WatchEvent) -> Option<Result<Bytes, BoxError>> {
        let delivery = self.fault.as_ref().map_or(Delivery::Deliver, |f| {
            f.deliver(&self.cursor.resource.table, &event.object)
        });
        let line = self.line(&event);
        match delivery {
            Delivery::Deliver => Some(Ok(line)),
            Delivery::Lag(time) => {
                tokio::time::sleep(time).await;
                Some(Ok(line))
            }
            Delivery::Close => {
                self.over = true;
                None
            }
            Delivery::Truncate => {
                self.over = true;
                Some(Ok(line.slice(..line.len() / 2)))
            }
            Delivery::Skip(time) => {
                tokio::time::sleep(time).await;
                self.skip(event);
                None
            }
            Delivery::Twice => Some(Ok([line.as_ref(), line.as_ref()].concat().into())),
        }
    }

    /// Holds `event` and all that followed it, the last for each object.
    fn skip(&mut self, event: WatchEvent) {
        let mut events = vec![event];
        loop {
            match self.api.with(|core| self.cursor.next(core)) {
                Step::Event(event) => events.push(event),
                Step::Idle => break,
                Step::Last(_) => {
                    self.over = true;
                    break;
                }
            }
        }
        let place = |event: &WatchEvent| {
            let object = &event.object;
            let (namespace, name) = (object::namespace(object), object::name(object));
            (namespace.to_owned(), name.to_owned())
        };
        let last: BTreeMap<_, usize> = events.iter().map(place).zip(0..).collect();
        let kept = events
            .into_iter()
            .enumerate()
            .filter(|(index, event)| last.get(&place(event)) == Some(index));
        self.held.extend(kept.map(|(_, event)| event));
    }

    fn line(&mut self, event: &WatchEvent) -> Bytes {
        let (resource, now) = (&self.cursor.resource, self.api.clock().now());
        let shown = self.form.event(event, resource, self.headed, now);
        self.headed = true;
        let text = format!("{{\"type\":\"{}\",\"object\":{shown}}}\n", event.kind);
        text.into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(
                bytes
                    .take()
                    .filter(|b| !b.is_empty())
                    .map(|b| Ok(Frame::data(b))),
            ),
            Self::Stream(stream) => stream
                .as_mut()
                .poll_next(context)
                .map(|piece| piece.map(|p| p.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.as_ref().is_none_or(Bytes::is_empty))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Whole(bytes) => {
                http_body::SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Self::Stream(_) => http_body::SizeHint::default(),
        }
    }
}
