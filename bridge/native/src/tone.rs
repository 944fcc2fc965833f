//! Ring tone toward a caller who is being transferred: frames of G.711 on the grid of the stream's fill.

use crate::session::Encoding;
use std::f64::consts::TAU;

const RATE: u64 = 8000;
const SAMPLE: u64 = 1_000_000_000 / RATE;

/// Samples over which a burst swells and fades, so that it does not click.
const RAMP: u64 = 80;

/// The peak of one frequency: -19 dBm0, as a telephone exchange rings.
const PEAK: f64 = 2500.0;

/// Which country's ring tone (ITU-T E.180, TIA-464).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    RingbackUs,
    RingbackEu,
}

impl Tone {
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "ringback-us" => Some(Tone::RingbackUs),
            "ringback-eu" => Some(Tone::RingbackEu),
            _ => None,
        }
    }

    fn frequencies(self) -> &'static [u64] {
        match self {
            Tone::RingbackUs => &[440, 480],
            Tone::RingbackEu => &[425],
        }
    }

    /// How many samples a burst lasts, and the pause after it.
    fn cadence(self) -> (u64, u64) {
        match self {
            Tone::RingbackUs => (2 * RATE, 4 * RATE),
            Tone::RingbackEu => (RATE, 4 * RATE),
        }
    }

    /// The sample at an index since the tone began.
    fn sample(self, index: u64) -> i16 {
        let (on, off) = self.cadence();
        let place = index % (on + off);
        if place >= on {
            return 0;
        }
        let swell = place.min(on - 1 - place).min(RAMP) as f64 / RAMP as f64;
        // Every frequency is a whole number of hertz: the phase comes round each second.
        let phase = |frequency: u64| (index * frequency % RATE) as f64 / RATE as f64;
        let wave: f64 = self.frequencies().iter().map(|frequency| (TAU * phase(*frequency)).sin()).sum();
        (wave * swell * PEAK) as i16
    }
}

/// A tone that is being heard. It begins with a burst, at its first frame.
#[derive(Clone, Copy, Debug)]
pub struct Ringing {
    tone: Tone,
    since: Option<u64>,
}

impl Ringing {
    pub fn new(tone: Tone) -> Self {
        Ringing { tone, since: None }
    }

    /// Write the frame of a slot (nanoseconds). A stall skips what nobody heard: the cadence is that of time.
    pub fn write(&mut self, slot: u64, encoding: Encoding, frame: &mut [u8]) {
        let since = *self.since.get_or_insert(slot);
        let first = slot.saturating_sub(since) / SAMPLE;
        for (index, octet) in (first..).zip(frame) {
            let sample = self.tone.sample(index);
            *octet = if encoding == Encoding::Pcma { a_law(sample) } else { mu_law(sample) };
        }
    }
}

/// Compress a sample by G.711 µ-law.
fn mu_law(sample: i16) -> u8 {
    let magnitude = i32::from(sample).abs().min(32_635) + 0x84;
    let segment = 24 - magnitude.leading_zeros() as i32; // the magnitude has 8 to 15 bits
    let octet = segment << 4 | (magnitude >> (segment + 3) & 0x0F);
    !((if sample < 0 { 0x80 } else { 0 } | octet) as u8)
}

/// Compress a sample by G.711 A-law.
fn a_law(sample: i16) -> u8 {
    let sign = if sample < 0 { 0 } else { 0x80 };
    let magnitude = (if sample < 0 { !i32::from(sample) } else { i32::from(sample) }) >> 3;
    let octet = if magnitude < 0x20 {
        magnitude >> 1
    } else {
        let segment = 27 - magnitude.leading_zeros() as i32; // 1 to 7
        segment << 4 | (magnitude >> segment & 0x0F)
    };
    (octet | sign) as u8 ^ 0x55
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn from_mu_law(octet: u8) -> i32 {
        let code = i32::from(!octet);
        let magnitude = (((code & 0x0F) << 3) + 0x84) << (code >> 4 & 7);
        if code & 0x80 != 0 { 0x84 - magnitude } else { magnitude - 0x84 }
    }

    fn from_a_law(octet: u8) -> i32 {
        let code = i32::from(octet ^ 0x55);
        let (segment, low) = (code >> 4 & 7, (code & 0x0F) << 4);
        let magnitude = if segment == 0 { low + 8 } else { (low + 0x108) << (segment - 1) };
        if code & 0x80 != 0 { magnitude } else { -magnitude }
    }

    /// Seconds of a tone as a listener hears it, frame by frame.
    fn heard(tone: Tone, encoding: Encoding, seconds: u64) -> Vec<i32> {
        let mut ringing = Ringing::new(tone);
        let mut samples = Vec::new();
        for slot in 0..seconds * 50 {
            let mut frame = [0; 160];
            ringing.write(777 + slot * 20 * MS, encoding, &mut frame);
            let decode = if encoding == Encoding::Pcma { from_a_law } else { from_mu_law };
            samples.extend(frame.map(decode));
        }
        samples
    }

    /// The share of a stretch's energy that lies at one frequency.
    fn share(samples: &[i32], frequency: f64) -> f64 {
        let (mut real, mut imaginary, mut energy) = (0.0, 0.0, 0.0);
        for (index, sample) in samples.iter().enumerate() {
            let (angle, value) = (TAU * frequency * index as f64 / RATE as f64, f64::from(*sample));
            real += value * angle.cos();
            imaginary += value * angle.sin();
            energy += value * value;
        }
        2.0 * (real * real + imaginary * imaginary) / (energy * samples.len() as f64)
    }

    #[test]
    fn the_american_tone_is_two_frequencies_two_seconds_long_and_four_apart() {
        let samples = heard(Tone::RingbackUs, Encoding::Pcmu, 12);
        for burst in [0, 6 * 8000] {
            let middle = &samples[burst + 800..burst + 800 + 8000];
            assert!((share(middle, 440.0) - 0.5).abs() < 0.02);
            assert!((share(middle, 480.0) - 0.5).abs() < 0.02);
        }
        assert!(samples[2 * 8000..6 * 8000].iter().all(|sample| *sample == 0));
        assert!(samples[8 * 8000..].iter().all(|sample| *sample == 0));
    }

    #[test]
    fn the_european_tone_is_one_frequency_one_second_long_and_four_apart() {
        let samples = heard(Tone::RingbackEu, Encoding::Pcma, 10);
        for burst in [0, 5 * 8000] {
            assert!(share(&samples[burst + 800..burst + 800 + 6400], 425.0) > 0.98);
        }
        assert!(samples[8000..5 * 8000].iter().all(|sample| sample.abs() <= 8)); // A-law has no zero
    }

    #[test]
    fn nothing_clicks_within_a_burst_at_its_ends_or_between_frames() {
        for (tone, encoding) in [(Tone::RingbackUs, Encoding::Pcmu), (Tone::RingbackEu, Encoding::Pcma)] {
            let samples = heard(tone, encoding, 7);
            // The steepest step of two sines of this peak, and what quantizing adds to it.
            let steepest =
                tone.frequencies().iter().map(|f| PEAK * TAU * *f as f64 / RATE as f64).sum::<f64>();
            let step = samples.windows(2).map(|pair| (pair[1] - pair[0]).abs()).max().unwrap_or(0);
            assert!(f64::from(step) < 1.15 * steepest, "{step} is more than {steepest}");
        }
    }

    #[test]
    fn a_stall_keeps_the_cadence() {
        let mut ringing = Ringing::new(Tone::RingbackUs);
        let mut frame = [0; 160];
        ringing.write(0, Encoding::Pcmu, &mut frame);
        assert!(frame.iter().any(|octet| *octet != 0xFF));
        ringing.write(3000 * MS, Encoding::Pcmu, &mut frame);
        assert!(frame.iter().all(|octet| *octet == 0xFF));
    }

    #[test]
    fn compression_keeps_every_sample_within_its_step() {
        for sample in (i16::MIN..=i16::MAX).step_by(7) {
            let exact = i32::from(sample).clamp(-32_635, 32_635);
            for decoded in [from_mu_law(mu_law(sample)), from_a_law(a_law(sample))] {
                assert!((decoded - exact).abs() <= 16 + exact.abs() / 16, "{sample} came back as {decoded}");
            }
        }
    }
}
