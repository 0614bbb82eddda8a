//! Sequences of operations on a packet buffer, compared with the same operations on a vector.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use virtroupe_wire::{Buffer, HeapBuffer};

#[derive(Arbitrary, Debug)]
enum Operation {
    Prepend(u8, u8),
    TrimFront(u16),
    Truncate(u16),
    Extend(Vec<u8>),
    Append(Vec<u8>),
    Overwrite(u8),
}

fuzz_target!(|input: (Vec<u8>, Vec<Operation>)| {
    let (start, operations) = input;
    let mut buffer = HeapBuffer::new(&start);
    let mut model = start;
    for operation in operations {
        apply(operation, &mut buffer, &mut model);
        assert_eq!(buffer.len(), model.len());
        assert_eq!(buffer.to_vec(), model);
        assert!(model.starts_with(buffer.head()));
        assert!(buffer.is_chain() || buffer.head().len() == model.len());
    }
});

fn apply(operation: Operation, buffer: &mut HeapBuffer, model: &mut Vec<u8>) {
    match operation {
        Operation::Prepend(count, fill) => {
            let count = usize::from(count);
            let room = buffer.headroom();
            let Some(front) = buffer.prepend(count) else {
                assert!(count > room, "refused {count} of {room}");
                return;
            };
            assert!(count <= room);
            assert_eq!(front.len(), count);
            front.fill(fill);
            model.splice(0..0, std::iter::repeat_n(fill, count));
        }
        Operation::TrimFront(count) => {
            buffer.trim_front(count.into());
            model.drain(..model.len().min(count.into()));
        }
        Operation::Truncate(length) => {
            buffer.truncate(length.into());
            model.truncate(length.into());
        }
        Operation::Extend(bytes) => {
            if buffer.extend_from_slice(&bytes) {
                model.extend_from_slice(&bytes);
            }
        }
        Operation::Append(bytes) => {
            buffer.append(HeapBuffer::new(&bytes));
            model.extend_from_slice(&bytes);
        }
        Operation::Overwrite(byte) => {
            let head = buffer.head_mut();
            head.fill(byte);
            let length = head.len();
            model.iter_mut().take(length).for_each(|b| *b = byte);
        }
    }
}
