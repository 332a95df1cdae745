//! What was tried as a picture: SVG that needs nothing else, on light and on dark ground.

use std::fmt::Write as _;

use super::Tried;
use super::report::{clock, span};
use crate::machine::breaker::StateName;
use crate::machine::simulation::run::Run;
use crate::machine::simulation::truth::Call;
use crate::machine::time::Tick;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 40.0;
/// The lane of the calls.
const CALLS: f64 = 64.0;
/// A candidate's lane.
const LANE: f64 = 22.0;
const GAP: f64 = 10.0;
/// Bars in the lane of the calls.
const BARS: usize = 160;

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}.axis{stroke:#8c959f;stroke-width:1}.small{font-size:10px;fill:#59636e}\
.closed{fill:#a8d5ba}.open{fill:#d1495b}.half{fill:#edae49}.refused{fill:#6f42c1}.good{fill:#a8c4dd}.failed{fill:#d1495b}.bad{fill:#d1495b;opacity:.1}\
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.closed{fill:#2f6f4f}.good{fill:#3b5f7f}.half{fill:#b8860b}.refused{fill:#b794f4}}";

/// Draws each service: its calls, how many of them failed, and what each candidate would have done.
pub(super) fn svg(tried: &[Tried]) -> String {
    let mut body = String::new();
    let mut top = 16.0;
    for tried in tried {
        top = service(&mut body, tried, top) + 2.0 * GAP;
    }
    legend(&mut body, top);
    let height = top + 24.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"What breakers would have done\">\
         <style>{STYLE}</style>\n{body}</svg>\n"
    )
}

/// Where a time lies, from left to right.
#[derive(Clone, Copy)]
struct Scale {
    from: Tick,
    to: Tick,
}

impl Scale {
    #[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
    fn x(self, at: Tick) -> f64 {
        let whole = self.to.0.saturating_sub(self.from.0).max(1) as f64;
        let part = at.0.clamp(self.from.0, self.to.0) - self.from.0;
        LEFT + (WIDTH - LEFT - RIGHT) * part as f64 / whole
    }
}

/// Writes a line; writing to a string cannot fail.
macro_rules! draw {
    ($body:expr, $($text:tt)*) => { let _ = writeln!($body, $($text)*); };
}

fn service(body: &mut String, tried: &Tried, top: f64) -> f64 {
    let Some((from, to)) = span(&tried.calls) else { return top };
    let scale = Scale { from, to };
    let height = CALLS + (LANE + GAP) * tried.candidates.len() as f64;
    for period in &tried.bad {
        let (left, right) = (scale.x(period.from), scale.x(period.to));
        draw!(body, "<rect class=\"bad\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>", right - left);
    }
    draw!(body, "<text x=\"0\" y=\"{:.1}\">{}</text>", top + CALLS / 2.0, escaped(&tried.service));
    draw!(body, "<text class=\"small\" x=\"0\" y=\"{:.1}\">{} calls</text>", top + CALLS / 2.0 + 14.0, tried.calls.len());
    bars(body, &tried.calls, scale, top);
    let mut lane = top + CALLS + GAP;
    for (candidate, run) in &tried.candidates {
        draw!(body, "<text x=\"0\" y=\"{:.1}\">{}</text>", lane + LANE * 0.7, escaped(&candidate.name));
        states(body, run, scale, lane);
        lane += LANE + GAP;
    }
    axis(body, scale, lane);
    lane + 18.0
}

/// How many calls began in each stretch, the failed ones in another colour.
fn bars(body: &mut String, calls: &[Call], scale: Scale, top: f64) {
    let width = (WIDTH - LEFT - RIGHT) / BARS as f64;
    let mut counts = [(0_u32, 0_u32); BARS];
    for call in calls {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 up to the number of bars")]
        let bar = (((scale.x(call.at) - LEFT) / width) as usize).min(BARS - 1);
        counts[bar].0 += 1;
        counts[bar].1 += u32::from(call.failed());
    }
    let most = f64::from(counts.iter().map(|(all, _)| *all).max().unwrap_or(0).max(1));
    for (bar, (all, failed)) in counts.into_iter().enumerate().filter(|(_, (all, _))| *all > 0) {
        let x = LEFT + width * bar as f64;
        let heights = [("good", 0.0, f64::from(all)), ("failed", 0.0, f64::from(failed))];
        for (class, _, count) in heights.into_iter().filter(|(_, _, count)| *count > 0.0) {
            let height = CALLS * count / most;
            draw!(
                body,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
                top + CALLS - height,
                width - 0.5
            );
        }
    }
}

fn states(body: &mut String, run: &Run, scale: Scale, top: f64) {
    for (place, (at, state)) in run.states.iter().enumerate() {
        let ends = run.states.get(place + 1).map_or(scale.to, |next| next.0);
        let class = match state {
            StateName::Open | StateName::ForcedOpen => "open",
            StateName::HalfOpen => "half",
            StateName::Closed | StateName::ForcedClosed | StateName::MetricsOnly => "closed",
        };
        let (left, right) = (scale.x(*at), scale.x(ends));
        draw!(body, "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{LANE}\"/>", (right - left).max(0.5));
    }
    // Refusals lie close together: one mark for those that touch.
    let mut marks: Vec<(f64, f64)> = Vec::new();
    for at in &run.refusals {
        let x = scale.x(*at);
        match marks.last_mut() {
            Some((_, right)) if x - *right <= 1.0 => *right = x + 1.0,
            _ => marks.push((x, x + 1.0)),
        }
    }
    for (left, right) in marks {
        draw!(body, "<rect class=\"refused\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"4\"/>", top + LANE - 4.0, right - left);
    }
}

fn axis(body: &mut String, scale: Scale, top: f64) {
    draw!(body, "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{top:.1}\" x2=\"{:.1}\" y2=\"{top:.1}\"/>", WIDTH - RIGHT);
    let whole = scale.to.0.saturating_sub(scale.from.0).max(1);
    const STEPS: [u64; 14] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_800, 3_600, 21_600, 86_400];
    let step = STEPS.into_iter().map(|seconds| seconds * 1_000).find(|step| whole / step <= 9).unwrap_or(whole);
    let mut at = scale.from.0.div_ceil(step) * step;
    while at <= scale.to.0 {
        let x = scale.x(Tick(at));
        draw!(body, "<line class=\"axis\" x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>", top + 4.0);
        draw!(body, "<text class=\"small\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>", top + 15.0, clock(Tick(at)));
        at += step;
    }
}

fn legend(body: &mut String, top: f64) {
    let mut x = LEFT;
    for (class, word) in [
        ("good", "calls"),
        ("failed", "failed"),
        ("closed", "closed"),
        ("open", "open"),
        ("half", "half-open"),
        ("refused", "refused"),
        ("bad", "really bad"),
    ] {
        draw!(body, "<rect class=\"{class}\" x=\"{x}\" y=\"{:.1}\" width=\"12\" height=\"12\"/>", top);
        draw!(body, "<text class=\"small\" x=\"{}\" y=\"{:.1}\">{word}</text>", x + 16.0, top + 10.0);
        x += 90.0;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
