//! Where losses of several heads on the same samples meet, so that one pass over the features serves all that wait for one.
//!
//! Each head is trained on a thread of its own. For a pass its loss hands over what it keeps, and gets it back with what was found.
//! The pass begins when nearly all heads wait; what comes of it does not depend on which ones do.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::lanes::{Element, Instructions};
use super::pass::{Asked, Kept, Product, Samples, Scratch};
use super::tiles::Matrix;
use crate::backend::{Evaluation, Shape};
use crate::data::Targets;
use crate::error::{Error, Result};

/// One in so many heads may be late for a pass, where a thread has nothing else to do than to go on without it.
const LATE: usize = 4;

/// What heads know of the meeting.
pub(super) struct Meeting {
    /// Where the features begin, and how many values they are.
    x: (usize, usize),
    scale: f32,
    shape: Shape,
    /// Those of the first head, for all.
    targets: OnceLock<Arc<Targets<'static>>>,
    messages: Mutex<Sender<Message>>,
    /// For what is no pass and takes longer than one; made when it is first asked for.
    threads: Arc<Threads>,
}

/// Who leads the passes.
pub(super) struct Lead<'a, T> {
    instructions: Instructions,
    x: Matrix<'a, T>,
    scale: f32,
    shape: Shape,
    scratch: Vec<Scratch>,
    messages: Receiver<Message>,
}

/// The place of a head, which leaves when it is dropped.
pub(super) struct Seat(Sender<Message>);

/// The way of a head's loss to the lead.
pub(super) struct Member {
    targets: Arc<Targets<'static>>,
    messages: Sender<Message>,
    threads: Arc<Threads>,
}

/// How many there are, and the pool; nothing where it could not be made.
struct Threads(usize, OnceLock<Option<ThreadPool>>);

enum Message {
    Pass(Box<Request>),
    Left,
}

struct Request {
    kept: Kept,
    product: Product,
    t: Vec<f64>,
    targets: Arc<Targets<'static>>,
    answer: Sender<(Kept, Evaluation)>,
}

/// A meeting on these features, and who leads it.
pub(super) fn meeting<'a, T: Element>(
    instructions: Instructions,
    x: Matrix<'a, T>,
    scale: f32,
    shape: Shape,
) -> Result<(Meeting, Lead<'a, T>)> {
    let none = Targets::Classes([].as_slice().into());
    let samples = Samples::new(instructions, x, scale, &none, shape);
    let scratch = (0..samples.n_threads()).map(|_| Scratch::new(&samples, true)).collect::<Result<_>>()?;
    let (sender, receiver) = channel();
    let (targets, messages, threads) =
        (OnceLock::new(), Mutex::new(sender), Arc::new(Threads(rayon::current_num_threads(), OnceLock::new())));
    let meeting = Meeting { x: place(x), scale, shape, targets, messages, threads };
    Ok((meeting, Lead { instructions, x, scale, shape, scratch, messages: receiver }))
}

fn place<T>(x: Matrix<T>) -> (usize, usize) {
    (x.x.as_ptr().addr(), x.x.len())
}

impl Meeting {
    fn messages(&self) -> Sender<Message> {
        // A sender is not left in the middle of anything by a panic.
        self.messages.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// For a head that will ask.
    pub fn seat(&self) -> Seat {
        Seat(self.messages())
    }

    /// For the loss of one; nothing where it is not that of the others, but for the weights of the samples.
    pub fn member<T>(&self, x: Matrix<T>, scale: f32, shape: Shape, targets: &Targets) -> Option<Member> {
        if (place(x), scale.to_bits(), shape) != (self.x, self.scale.to_bits(), self.shape) {
            return None;
        }
        let of_all = self.targets.get_or_init(|| Arc::new(owned(targets)));
        let member = || Member { targets: of_all.clone(), messages: self.messages(), threads: self.threads.clone() };
        are_same(of_all, targets).then(member)
    }
}

fn owned(targets: &Targets) -> Targets<'static> {
    match targets {
        Targets::Classes(classes) => Targets::Classes(classes.to_vec().into()),
        Targets::Distributions(y) => Targets::Distributions(y.to_vec().into()),
    }
}

fn are_same(a: &Targets, b: &Targets) -> bool {
    match (a, b) {
        (Targets::Classes(a), Targets::Classes(b)) => a == b,
        (Targets::Distributions(a), Targets::Distributions(b)) => a == b,
        _ => false,
    }
}

impl Member {
    /// Does the work on all threads, but those of other heads.
    pub fn on_all_threads(&self, work: &mut (dyn FnMut() + Send)) {
        let Threads(n, pool) = &*self.threads;
        match pool.get_or_init(|| ThreadPoolBuilder::new().num_threads(*n).build().ok()) {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// A pass for what the loss keeps, as soon as there is one.
    pub fn pass(&self, kept: Kept, product: Product, t: &[f64]) -> Result<(Kept, Evaluation)> {
        let (answer, answers) = channel();
        let request = Box::new(Request { kept, product, t: t.to_vec(), targets: self.targets.clone(), answer });
        // Where a panic has ended the lead the request is dropped, and there is no answer.
        let _ = self.messages.send(Message::Pass(request));
        answers.recv().map_err(|_| Error::Device {
            device: "cpu".to_owned(),
            problem: "the passes over the samples of several models have ended".to_owned(),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _ = self.0.send(Message::Left);
    }
}

impl<T: Element> Lead<'_, T> {
    /// Leads the passes of so many heads until all have left; how many passes there were.
    pub fn lead(mut self, n_heads: usize) -> usize {
        let (mut n_present, mut n_passes) = (n_heads, 0);
        let mut waiting: Vec<Request> = Vec::new();
        while n_present > 0 {
            let Ok(message) = self.messages.recv() else { break };
            for message in std::iter::once(message).chain(self.messages.try_iter()) {
                match message {
                    Message::Pass(request) => waiting.push(*request),
                    Message::Left => n_present -= 1,
                }
            }
            let most_late = (rayon::current_num_threads() - 1).min(n_present / LATE);
            if !waiting.is_empty() && waiting.len() + most_late >= n_present {
                self.pass(std::mem::take(&mut waiting));
                n_passes += 1;
            }
        }
        n_passes
    }

    fn pass(&mut self, mut requests: Vec<Request>) {
        let Some(targets) = requests.first().map(|request| request.targets.clone()) else { return };
        let samples = Samples::new(self.instructions, self.x, self.scale, &targets, self.shape);
        let mut asked: Vec<Asked> = Vec::with_capacity(requests.len());
        for Request { kept, product, t, .. } in &mut requests {
            asked.push(Asked { kept, product: *product, t });
        }
        let found = samples.pass(&mut self.scratch, &mut asked);
        for (Request { kept, answer, .. }, evaluation) in requests.into_iter().zip(found) {
            // Who asked may have gone.
            let _ = answer.send((kept, evaluation));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Arc, Mutex};

    use half::f16;

    use super::super::Cpu;
    use super::super::pass::Kept;
    use crate::backend::{Backend, Evaluation, Loss, Shape, Supervision};
    use crate::batch::Shuffle;
    use crate::data::{Features, Targets};

    /// A part is more than a block, and the features lie in whole slabs.
    const SHAPE: Shape = Shape { n_features: 1008, n_classes: 7, n_heads: 1 };
    const N: usize = 1700;
    /// Passes of `rounds`.
    const ROUNDS: usize = 6;

    fn values(seed: u64, n: usize) -> Vec<f64> {
        let mut random = Shuffle::new(seed, 0);
        (0..n).map(|_| random.below(1 << 20) as f64 / f64::from(1 << 20) - 0.5).collect()
    }

    fn targets(seed: usize) -> Targets<'static> {
        Targets::Classes((0..N).map(|i| ((i * i + seed) % SHAPE.n_classes) as u32).collect())
    }

    /// Each head leaves out samples of its own.
    fn weights(head: usize) -> Vec<f32> {
        (0..N).map(|i| if i / 150 % 5 == head % 5 { 0.0 } else { 1.0 + (i % 3) as f32 }).collect()
    }

    /// What a solver asks for: some heads another thing than others at a time, and some of it in drafts.
    fn rounds(loss: &mut dyn Loss, head: usize) -> Vec<Evaluation> {
        let vector = |seed| values(seed + 100 * head as u64, SHAPE.n_parameters());
        let mut found = Vec::new();
        loss.set_draft(head % 2 == 1);
        found.push(loss.start(&vector(1)).unwrap());
        found.push(loss.look(&vector(2), &[0.7]).unwrap());
        let point = loss.along(&[0.3]).unwrap().swap_remove(0);
        for turn in 0..2 {
            found.push(match (turn + head) % 2 {
                0 => loss.gradient(&[0.3]).unwrap(),
                _ => Evaluation { point: point.clone(), gradient: loss.hessian_vector(&vector(3)).unwrap() },
            });
        }
        loss.advance(&[0.3]).unwrap();
        found.push(loss.look(&vector(4), &[-0.2]).unwrap());
        loss.set_draft(head == 0);
        found.push(loss.start(&vector(1)).unwrap());
        found
    }

    fn found_by(
        backend: &dyn Backend,
        features: &Features,
        scale: f32,
        targets: &Targets,
        head: usize,
    ) -> Vec<Evaluation> {
        let weights = weights(head);
        let supervision = Supervision { targets, weights: Some(&weights) };
        let mut session = backend.session(features, scale, Some(supervision)).unwrap();
        rounds(&mut *session.loss(SHAPE).unwrap(), head)
    }

    fn alone(features: &Features, scale: f32, targets: &Targets, n_heads: usize) -> Vec<Vec<Evaluation>> {
        (0..n_heads).map(|head| found_by(&Cpu::new(), features, scale, targets, head)).collect()
    }

    /// For so many heads, the first with these targets: what each found, and how many passes there were.
    fn together(
        features: &Features,
        scale: f32,
        of_first: &Targets,
        n_heads: usize,
        memory: Option<u64>,
    ) -> (Vec<Vec<Evaluation>>, usize) {
        let found = Mutex::new(vec![Vec::new(); n_heads]);
        let passes = Cpu::new().side_by_side(features, scale, SHAPE, n_heads, memory, &|head, backend| {
            let targets = if head == 0 { of_first.clone() } else { targets(0) };
            let of_head = found_by(&*backend, features, scale, &targets, head);
            found.lock().unwrap()[head] = of_head;
        });
        (found.into_inner().unwrap(), passes.unwrap().unwrap())
    }

    fn features() -> Features<'static> {
        let x: Vec<f32> = values(9, N * SHAPE.n_features).iter().map(|&x| x as f32).collect();
        Features::new(x, N, SHAPE.n_features).unwrap()
    }

    /// To the bit, whatever the features are stored as, where they lie and in tiles of their own; and X is read once for all.
    #[test]
    fn heads_find_what_they_would_alone_in_as_many_passes_as_one() {
        let x: Vec<f64> = values(9, N * SHAPE.n_features);
        let d = SHAPE.n_features;
        let f16s = Features::new(x.iter().map(|&x| f16::from_f64(x)).collect::<Vec<_>>(), N, d).unwrap();
        let u8s = Features::new(x.iter().map(|&x| (x * 200.0 + 100.0) as u8).collect::<Vec<_>>(), N, d).unwrap();
        for (features, scale) in [(features(), 1.0), (features(), 0.5), (f16s, 1.0), (u8s, 1.0 / 256.0)] {
            let (found, passes) = together(&features, scale, &targets(0), 3, None);
            assert_eq!(found, alone(&features, scale, &targets(0), 3));
            assert_ne!(found[0], found[1]);
            assert_eq!(passes, ROUNDS);
        }
    }

    /// A head with other targets finds what is right for these, by itself.
    #[test]
    fn targets_of_others_are_not_taken() {
        let (features, n_heads) = (features(), 2);
        let (found, _) = together(&features, 1.0, &targets(1), n_heads, None);
        assert_eq!(found[0], alone(&features, 1.0, &targets(1), n_heads)[0]);
        assert_ne!(found[0], alone(&features, 1.0, &targets(0), n_heads)[0]);
        assert_eq!(found[1], alone(&features, 1.0, &targets(0), n_heads)[1]);
    }

    /// What is asked between is in the precision that was, and nothing of the other is left after a start.
    #[test]
    fn a_precision_holds_until_the_next_start() {
        let (features, targets) = (features(), targets(0));
        // Tiles without any weight, which no pass computes.
        let weights: Vec<f32> = (0..N).map(|i| if i < 900 { 0.0 } else { 1.0 }).collect();
        let supervision = Supervision { targets: &targets, weights: Some(&weights) };
        let vector = |seed| values(seed, SHAPE.n_parameters());
        let intercept = &values(7, SHAPE.n_classes)[..];
        let cpu = Cpu::new();
        let asked = |loss: &mut Box<dyn Loss + '_>| {
            loss.look(&vector(2), &[0.5]).unwrap();
            loss.advance(&[0.3]).unwrap();
            (loss.along(&[0.1]).unwrap(), loss.gradient(&[0.2]).unwrap(), loss.hessian_vector(&vector(3)).unwrap())
        };
        let at_zero = |loss: &mut Box<dyn Loss + '_>| {
            loss.start(&vector(1)).unwrap();
            (loss.shift(intercept).unwrap(), loss.shift_curvature(intercept).unwrap())
        };
        for is_draft in [true, false] {
            let mut sessions = [(); 3].map(|()| cpu.session(&features, 1.0, Some(supervision)).unwrap());
            let [mut changed, mut same, mut other] = sessions.each_mut().map(|session| session.loss(SHAPE).unwrap());
            for loss in [&mut changed, &mut same] {
                loss.set_draft(is_draft);
                loss.start(&vector(1)).unwrap();
            }
            assert!(changed.set_draft(!is_draft));
            assert_eq!(asked(&mut changed), asked(&mut same));
            other.set_draft(!is_draft);
            assert_eq!(at_zero(&mut changed), at_zero(&mut other));
            assert_ne!(at_zero(&mut changed), at_zero(&mut same));
        }
    }

    /// With many heads some may be late, but nearly all share each pass; in little memory there are groups.
    #[test]
    fn many_heads_share_nearly_all_passes() {
        let (features, n_heads) = (features(), 12);
        let expected = alone(&features, 1.0, &targets(0), n_heads);
        let (found, passes) = together(&features, 1.0, &targets(0), n_heads, None);
        assert_eq!(found, expected);
        assert!(passes >= ROUNDS && passes < n_heads * ROUNDS / 3, "{passes}");
        let (found, passes) = together(&features, 1.0, &targets(0), n_heads, Some(3 * Kept::bytes(N, SHAPE)));
        assert_eq!(found, expected);
        assert_eq!(passes, 4 * ROUNDS);
    }

    /// One that fails or panics leaves the others to go on; the panic is that of the call.
    #[test]
    fn a_head_that_leaves_is_not_waited_for() {
        let features = features();
        let expected = alone(&features, 1.0, &targets(0), 3);
        let of_last = Mutex::new(Vec::new());
        let work = |head: usize, backend: Arc<dyn Backend>| match head {
            0 => {}
            1 => panic!("of one head"),
            _ => *of_last.lock().unwrap() = found_by(&*backend, &features, 1.0, &targets(0), head),
        };
        let call = || Cpu::new().side_by_side(&features, 1.0, SHAPE, 3, None, &work);
        let panic = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"of one head"));
        assert_eq!(*of_last.lock().unwrap(), expected[2]);
    }

    #[test]
    fn what_does_not_suit_is_an_error() {
        let shape = Shape { n_features: 3, ..SHAPE };
        assert!(Cpu::new().side_by_side(&features(), 1.0, shape, 3, None, &|_, _| ()).is_err());
        let passes = Cpu::new().side_by_side(&features(), 1.0, SHAPE, 0, None, &|_, _| ());
        assert_eq!(passes.unwrap(), Some(0));
    }
}
