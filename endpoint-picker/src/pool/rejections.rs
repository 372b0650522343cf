//! How many of an endpoint's newest answers served nobody although nothing was wrong with the endpoint by their words: "unauthorised",
//! "not found", "moved", a page instead of JSON.
//!
//! One such answer says nothing: its client may be to blame. But an endpoint that gives them to everybody is soon the least loaded of all and
//! would get every request, so it is measured by the others: what is the client's doing they reject too.

/// The part of the share that one answer is: some 16 answers are remembered.
const WEIGHT: f64 = 0.125;
/// An endpoint that rejects this share of what it gets, six requests in a row from none, is to blame…
const SUSPICIOUS_SHARE: f64 = 0.5;
/// …if the others reject no more than this.
const USUAL_SHARE: f64 = 0.25;

/// The answers of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rejections {
    /// The share of rejections, a moving mean, 0 to 1; `None`: it has not answered yet.
    share: Option<f64>,
}

impl Rejections {
    /// It answered.
    pub(super) fn note(&mut self, is_rejection: bool) {
        let share = self.share.unwrap_or(0.0);
        self.share = Some(share + WEIGHT * (f64::from(u8::from(is_rejection)) - share));
    }

    /// Whether its rejections are its own fault, as the others show. While nobody else has answered, nothing shows.
    pub(super) fn is_to_blame(&self, others: impl Iterator<Item = Self>) -> bool {
        let (count, sum) =
            others.filter_map(|other| other.share).fold((0.0, 0.0), |(count, sum), share| (count + 1.0, sum + share));
        self.share.is_some_and(|share| share >= SUSPICIOUS_SHARE) && count > 0.0 && sum <= USUAL_SHARE * count
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn after(answers: &[(usize, bool)]) -> Rejections {
        let mut rejections = Rejections::default();
        for &(count, is_rejection) in answers {
            (0..count).for_each(|_| rejections.note(is_rejection));
        }
        rejections
    }

    #[test]
    fn an_endpoint_is_to_blame_for_what_the_others_do_not_do() {
        let (good, bad, new) = (after(&[(20, false)]), after(&[(20, true)]), Rejections::default());
        assert!(bad.is_to_blame([good, good].into_iter()));
        assert!(!bad.is_to_blame([bad, bad].into_iter()), "the clients are");
        assert!(bad.is_to_blame([good, good, good, bad].into_iter()) && !bad.is_to_blame([good, bad].into_iter()));
        assert!(!bad.is_to_blame([new, new].into_iter()), "nobody else has answered");
        assert!(bad.is_to_blame([new, good].into_iter()));
        assert!(!good.is_to_blame([good].into_iter()) && !new.is_to_blame([good].into_iter()));
    }

    #[test]
    fn some_answers_in_a_row_show_it_and_a_few_good_ones_end_it() {
        let others = || [after(&[(5, false)])].into_iter();
        assert!(!after(&[(100, false), (5, true)]).is_to_blame(others()));
        assert!(after(&[(100, false), (6, true)]).is_to_blame(others()));
        assert!(!after(&[(100, true), (6, false)]).is_to_blame(others()));
    }
}
