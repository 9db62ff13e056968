//! What the kernel does with a program (`net/ipv4/inet_diag.c`), restated: the audit and the run.

/// `struct inet_diag_entry`: what the kernel holds against a program. Addresses in network order.
pub(super) struct Entry {
    pub(super) family: u8,
    pub(super) local: Vec<u8>,
    pub(super) remote: Vec<u8>,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
}

/// Why the audit refuses a program; the kernel says `EINVAL` to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    TooShort,
    Code,
    Argument,
    Yes,
    No,
}

struct Operation {
    code: u8,
    yes: usize,
    no: usize,
}

fn operation(program: &[u8], place: usize) -> Operation {
    let [code, yes, no @ ..]: [u8; 4] = program[place..][..4].try_into().unwrap();
    Operation { code, yes: yes.into(), no: u16::from_ne_bytes(no).into() }
}

/// `inet_diag_bc_audit`; also how many operations `valid_cc` counts over.
pub(super) fn audit(program: &[u8]) -> Result<u64, Refusal> {
    if program.len() < 4 {
        return Err(Refusal::TooShort);
    }
    // `valid_cc` counts through the program for each jump; the places that it can reach are the same each time.
    let mut boundaries = vec![None; program.len() + 1];
    let mut place = 0;
    let mut count = 0;
    let mut steps = 0;
    while place < program.len() {
        count += 1;
        boundaries[place] = Some(count);
        let yes = usize::from(program[place + 1]);
        if yes < 4 || yes % 4 != 0 {
            break;
        }
        place += yes;
    }
    if place == program.len() {
        boundaries[place] = Some(count + 1);
    }

    let mut place = 0;
    while place < program.len() {
        let left = program.len() - place;
        let Operation { code, yes, no } = operation(program, place);
        let needs = match code {
            1 => 4,
            2..=5 => 8,
            7 | 8 => {
                if left < 12 {
                    return Err(Refusal::Argument);
                }
                let address = match program[place + 4] {
                    0 => 0,
                    2 => 4,
                    10 => 16,
                    _ => return Err(Refusal::Argument),
                };
                if left < 12 + address || usize::from(program[place + 5]) > 8 * address {
                    return Err(Refusal::Argument);
                }
                12 + address
            }
            // What else the kernel knows, no program here has.
            _ => return Err(Refusal::Code),
        };
        if left < needs {
            return Err(Refusal::Argument);
        }
        if no < needs || no > left + 4 || no % 4 != 0 {
            return Err(Refusal::No);
        }
        if no < left {
            steps += boundaries[place + no].ok_or(Refusal::No)?;
        }
        if yes < needs || yes > left + 4 || yes % 4 != 0 {
            return Err(Refusal::Yes);
        }
        place += yes;
    }
    if place == program.len() { Ok(steps) } else { Err(Refusal::Yes) }
}

/// `inet_diag_bc_run`.
pub(super) fn run(program: &[u8], entry: &Entry) -> bool {
    count_steps(program, entry).0
}

/// Also how many operations it took.
pub(super) fn count_steps(program: &[u8], entry: &Entry) -> (bool, usize) {
    let mut place = 0;
    let mut steps = 0;
    while place < program.len() {
        steps += 1;
        let Operation { code, yes, no } = operation(program, place);
        let holds = match code {
            1 => false,
            2 => entry.local_port >= compared_port(program, place),
            3 => entry.local_port <= compared_port(program, place),
            4 => entry.remote_port >= compared_port(program, place),
            5 => entry.remote_port <= compared_port(program, place),
            7 => host_condition(&program[place + 4..], entry.family, &entry.local, entry.local_port),
            8 => host_condition(&program[place + 4..], entry.family, &entry.remote, entry.remote_port),
            code => panic!("code {code}"),
        };
        place += if holds { yes } else { no };
    }
    (place == program.len(), steps)
}

fn compared_port(program: &[u8], place: usize) -> u16 {
    u16::from_ne_bytes(program[place + 6..][..2].try_into().unwrap())
}

fn host_condition(condition: &[u8], family: u8, address: &[u8], port: u16) -> bool {
    let wanted_port = i32::from_ne_bytes(condition[4..8].try_into().unwrap());
    if wanted_port != -1 && wanted_port != i32::from(port) {
        return false;
    }
    let (wanted_family, bits) = (condition[0], usize::from(condition[1]));
    if wanted_family != 0 && wanted_family != family {
        return family == 10
            && wanted_family == 2
            && address[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
            && begins_equal(&address[12..], &condition[8..], bits);
    }
    bits == 0 || begins_equal(address, &condition[8..], bits)
}

/// `bitstring_match`.
fn begins_equal(a: &[u8], b: &[u8], bits: usize) -> bool {
    (0..bits).all(|bit| (a[bit / 8] ^ b[bit / 8]) & (0x80 >> (bit % 8)) == 0)
}
