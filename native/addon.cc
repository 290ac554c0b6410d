// The addon's table of contents, and the only file that knows JavaScript. Each function takes numbers and byte arrays
// by position, checks every offset against its array, and answers a number: a result, or below zero an error,
// -(status + 16 * index of the message). src/crypto/addon.ts has the names and makes errors of them.
//
// There is no per-environment state and there are no finalizers: worker threads come and go over one key table.

#include <napi.h>
#include <time.h>

#include <cstring>

#include "audit_lines.h"
#include "bytes.h"
#include "cpu.h"
#include "frames.h"
#include "keys.h"
#include "listener.h"
#include "message_batch.h"
#include "packed_batch.h"
#include "wipe.h"

namespace keyfold {
namespace {

constexpr size_t kArgumentsMax = 16;

// A byte array of the caller's. Arrays on shared memory are taken as well.
struct View {
  uint8_t* data = nullptr;
  size_t len = 0;
};

// Whether a number can be an offset, a count or a handle. Not where it is NaN.
bool IsSize(double number) { return number >= 0 && number < 9007199254740992.0; }

class Arguments {
 public:
  Arguments(napi_env env, napi_callback_info info) : env_(env) {
    count_ = kArgumentsMax;
    if (napi_get_cb_info(env, info, &count_, values_, nullptr, nullptr) != napi_ok) Fail();
  }

  double Number() {
    double number = 0;
    if (napi_get_value_double(env_, Next(), &number) != napi_ok) Fail();
    return number;
  }

  size_t Size() {
    const double number = Number();
    if (!IsSize(number)) Fail();
    return ok_ ? static_cast<size_t>(number) : 0;
  }

  bool Boolean() {
    bool value = false;
    if (napi_get_value_bool(env_, Next(), &value) != napi_ok) Fail();
    return value;
  }

  // A typed array of `element_bytes` wide elements; len counts elements.
  View Array(napi_typedarray_type wanted) {
    View view;
    napi_typedarray_type type = napi_uint8_array;
    void* data = nullptr;
    // The array buffer and offset are not asked for: making a handle for them costs as much as the rest.
    if (napi_get_typedarray_info(env_, Next(), &type, &view.len, &data, nullptr, nullptr) !=
            napi_ok ||
        type != wanted) {
      Fail();
      return View();
    }
    view.data = static_cast<uint8_t*>(data);
    return view;
  }

  View Bytes8() { return Array(napi_uint8_array); }

  // A byte array and two offsets in it.
  View Range() {
    const View whole = Bytes8();
    const size_t offset = Size();
    const size_t end = Size();
    if (offset > end || end > whole.len) {
      Fail();
      return View();
    }
    return {whole.data + offset, end - offset};
  }

  // Exactly this many bytes.
  View Exactly(size_t len) {
    const View view = Bytes8();
    if (view.len != len) {
      Fail();
      return View();
    }
    return view;
  }

  // A list of byte arrays.
  size_t List(Span* list, size_t max) {
    const napi_value array = Next();
    uint32_t length = 0;
    if (napi_get_array_length(env_, array, &length) != napi_ok || length > max) {
      Fail();
      return 0;
    }
    for (uint32_t i = 0; i < length; i++) {
      napi_value element;
      napi_typedarray_type type = napi_uint8_array;
      void* data = nullptr;
      if (napi_get_element(env_, array, i, &element) != napi_ok ||
          napi_get_typedarray_info(env_, element, &type, &list[i].len, &data, nullptr, nullptr) !=
              napi_ok ||
          type != napi_uint8_array) {
        Fail();
        return 0;
      }
      list[i].data = static_cast<const uint8_t*>(data);
    }
    return length;
  }

  const AesGcm* Gcm() {
    const AesGcm* gcm = GetAesGcm(static_cast<Implementation>(Size()));
    if (gcm == nullptr) Fail();
    return gcm;
  }

  bool ok() const { return ok_; }
  void Fail() { ok_ = false; }

  napi_value Return(double number) const {
    napi_value result = nullptr;
    napi_create_double(env_, number, &result);
    return result;
  }

  napi_value Return(Status status, double value, size_t bad_message = 0) const {
    if (status == Status::kOk) return Return(value);
    return Return(-(static_cast<double>(status) + 16.0 * static_cast<double>(bad_message)));
  }

  napi_value Misuse() const { return Return(Status::kMisuse, 0); }

 private:
  napi_value Next() {
    if (next_ < count_) return values_[next_++];
    Fail();
    return nullptr;
  }

  napi_env env_;
  napi_value values_[kArgumentsMax];
  size_t count_;
  size_t next_ = 0;
  bool ok_ = true;
};

using Callback = napi_value (*)(napi_env, napi_callback_info);

// The choice.

// supports(implementation) -> 0 or 1
napi_value SupportsImplementation(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const size_t implementation = arguments.Size();
  if (!arguments.ok()) return arguments.Misuse();
  return arguments.Return(Supports(static_cast<Implementation>(implementation)) ? 1 : 0);
}

// Keys.

// generateKey(implementation) -> handle
napi_value Generate(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  if (!arguments.ok()) return arguments.Misuse();
  Handle handle = 0;
  const Status status = GenerateKey(*gcm, &handle);
  return arguments.Return(status, static_cast<double>(handle));
}

// importKey(implementation, source) -> handle
napi_value Import(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const View source = arguments.Exactly(kKeyBytes);
  if (!arguments.ok()) return arguments.Misuse();
  Handle handle = 0;
  const Status status = ImportKey(*gcm, source.data, &handle);
  return arguments.Return(status, static_cast<double>(handle));
}

// deriveKey(implementation, key, label) -> handle
napi_value Derive(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const Handle key = arguments.Size();
  const View label = arguments.Bytes8();
  if (!arguments.ok()) return arguments.Misuse();
  Handle handle = 0;
  const Status status = DeriveKey(*gcm, key, label.data, label.len, &handle);
  return arguments.Return(status, static_cast<double>(handle));
}

// wrapKey(implementation, out, wrappingKey, aad, key, ofMessageKey)
napi_value Wrap(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const View out = arguments.Exactly(kKeyBytes + kWrapOverheadBytes);
  const Handle wrapping_key = arguments.Size();
  const View aad = arguments.Bytes8();
  const Handle key = arguments.Size();
  const Kind kind = arguments.Boolean() ? Kind::kMessageKey : Kind::kRaw;
  if (!arguments.ok()) return arguments.Misuse();
  return arguments.Return(WrapKey(*gcm, out.data, wrapping_key, aad.data, aad.len, key, kind), 0);
}

// unwrapKey(implementation, wrappingKey, aad, wrapped) -> handle
napi_value Unwrap(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const Handle wrapping_key = arguments.Size();
  const View aad = arguments.Bytes8();
  const View wrapped = arguments.Bytes8();
  if (!arguments.ok()) return arguments.Misuse();
  Handle handle = 0;
  const Status status =
      UnwrapKey(*gcm, wrapping_key, aad.data, aad.len, wrapped.data, wrapped.len, &handle);
  return arguments.Return(status, static_cast<double>(handle));
}

// wrapBytes(implementation, out, wrappingKey, aad, plaintext)
napi_value WrapCallers(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const View out = arguments.Bytes8();
  const Handle wrapping_key = arguments.Size();
  const View aad = arguments.Bytes8();
  const View in = arguments.Bytes8();
  if (!arguments.ok() || out.len != in.len + kWrapOverheadBytes) return arguments.Misuse();
  return arguments.Return(
      WrapBytes(*gcm, out.data, wrapping_key, aad.data, aad.len, in.data, in.len), 0);
}

// unwrapBytes(implementation, out, wrappingKey, aad, wrapped)
napi_value UnwrapCallers(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const View out = arguments.Bytes8();
  const Handle wrapping_key = arguments.Size();
  const View aad = arguments.Bytes8();
  const View wrapped = arguments.Bytes8();
  if (!arguments.ok() || out.len + kWrapOverheadBytes != wrapped.len) return arguments.Misuse();
  return arguments.Return(
      UnwrapBytes(*gcm, out.data, wrapping_key, aad.data, aad.len, wrapped.data, wrapped.len), 0);
}

// releaseKey(handle)
napi_value Release(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const Handle handle = arguments.Size();
  if (!arguments.ok()) return arguments.Misuse();
  return arguments.Return(ReleaseSlot(handle), 0);
}

// wipeAllKeys()
napi_value WipeAll(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  WipeAllSlots();
  return arguments.Return(0);
}

// keyTableUsage(out: Float64Array(5)): slots, slotsUsed, tickets, ticketsUsed, locked
napi_value Usage(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const View out = arguments.Array(napi_float64_array);
  if (!arguments.ok() || out.len != 5) return arguments.Misuse();
  const KeyTableUsage usage = GetKeyTableUsage();
  double* figures = reinterpret_cast<double*>(out.data);
  figures[0] = kKeySlots;
  figures[1] = static_cast<double>(usage.slots_used);
  figures[2] = kTicketSlots;
  figures[3] = static_cast<double>(usage.tickets_used);
  figures[4] = usage.locked ? 1 : 0;
  return arguments.Return(0);
}

// Message keys.

constexpr size_t kSuiteMax = 2;

// createMessageKey(implementation, key, suite) -> handle
napi_value CreateMessage(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const Handle key = arguments.Size();
  const size_t suite = arguments.Size();
  if (!arguments.ok() || suite > kSuiteMax) return arguments.Misuse();
  Handle handle = 0;
  const Status status = CreateMessageKey(*gcm, key, static_cast<uint8_t>(suite), &handle);
  return arguments.Return(status, static_cast<double>(handle));
}

// openMessageKey(implementation, key, suite, commitment) -> handle
napi_value OpenMessage(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const Handle key = arguments.Size();
  const size_t suite = arguments.Size();
  const View commitment = arguments.Exactly(32);
  if (!arguments.ok() || suite > kSuiteMax) return arguments.Misuse();
  Handle handle = 0;
  const Status status =
      OpenMessageKey(*gcm, key, static_cast<uint8_t>(suite), commitment.data, &handle);
  return arguments.Return(status, static_cast<double>(handle));
}

// messageKeyCommitment(messageKey, out)
napi_value Commitment(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const Handle key = arguments.Size();
  const View out = arguments.Exactly(32);
  if (!arguments.ok()) return arguments.Misuse();
  return arguments.Return(GetCommitment(key, out.data), 0);
}

// Batches.

constexpr size_t kPartFields = 6;

void WriteParts(double* out, const Part* parts, size_t num_parts) {
  for (size_t i = 0; i < num_parts; i++) {
    double* fields = out + kPartFields * i;
    fields[0] = static_cast<double>(parts[i].input_offset);
    fields[1] = static_cast<double>(parts[i].input_end);
    fields[2] = static_cast<double>(parts[i].first_message);
    fields[3] = static_cast<double>(parts[i].num_messages);
    fields[4] = static_cast<double>(parts[i].plaintext_bytes);
    fields[5] = static_cast<double>(parts[i].output_bytes);
  }
}

// planParts(input, offset, end, messages, overheadBytes, nilAllowed, partsMax, parts: Float64Array) -> parts
napi_value Plan(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const View in = arguments.Range();
  const size_t messages = arguments.Size();
  const size_t overhead = arguments.Size();
  const bool nil_allowed = arguments.Boolean();
  const size_t parts_max = arguments.Size();
  const View out = arguments.Array(napi_float64_array);
  if (!arguments.ok() || out.len < kPartFields * kPartsMax) return arguments.Misuse();
  Part parts[kPartsMax];
  size_t num_parts = 0;
  size_t bad_message = 0;
  const Status status = PlanParts(parts, &num_parts, parts_max, {in.data, in.len, messages}, overhead,
                                  nil_allowed, &bad_message);
  if (status == Status::kOk) WriteParts(reinterpret_cast<double*>(out.data), parts, num_parts);
  return arguments.Return(status, static_cast<double>(num_parts), bad_message);
}

// sealBatch(implementation, output, offset, end, input, offset, end, messages, key, contextHash, keyEntry, nilAllowed)
// -> bytes written
napi_value Seal(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const View out = arguments.Range();
  const View in = arguments.Range();
  const size_t messages = arguments.Size();
  const Handle key = arguments.Size();
  const View context_hash = arguments.Exactly(32);
  const View key_entry = arguments.Bytes8();
  const bool nil_allowed = arguments.Boolean();
  if (!arguments.ok()) return arguments.Misuse();
  size_t written = 0;
  size_t bad_message = 0;
  const Status status =
      SealBatch(out.data, out.len, &written, *gcm, key, context_hash.data,
                {key_entry.data, key_entry.len}, nil_allowed, {in.data, in.len, messages},
                &bad_message);
  return arguments.Return(status, static_cast<double>(written), bad_message);
}

constexpr size_t kEntryFields = 4;

// scanMessages(input, offset, end, messages, contextHash, callers, entryOf, partsMax, parts: Float64Array, entries:
// Float64Array, cacheIds) -> 128 * entries + parts. Of an entry: suite, the caller's index or -1, its offset in the
// input and its length (where it is in a message), how many messages name it.
napi_value Scan(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const View in = arguments.Range();
  const size_t messages = arguments.Size();
  const View context_hash = arguments.Exactly(32);
  Span callers[kEntriesMax];
  const size_t num_callers = arguments.List(callers, kEntriesMax);
  const View entry_of = arguments.Array(napi_uint16_array);
  const size_t parts_max = arguments.Size();
  const View parts_out = arguments.Array(napi_float64_array);
  const View entries_out = arguments.Array(napi_float64_array);
  const View cache_ids = arguments.Bytes8();
  if (!arguments.ok() || entry_of.len < messages || parts_out.len < kPartFields * kPartsMax ||
      entries_out.len < (kEntryFields + 1) * kEntriesMax || cache_ids.len < 32 * kEntriesMax) {
    return arguments.Misuse();
  }
  for (size_t i = 0; i < num_callers; i++) {
    if (callers[i].len < 32) return arguments.Misuse();
  }
  NamedEntry entries[kEntriesMax];
  size_t num_entries = 0;
  Part parts[kPartsMax];
  size_t num_parts = 0;
  size_t bad_message = 0;
  const Status status = ScanMessages(
      entries, &num_entries, reinterpret_cast<uint16_t*>(entry_of.data), parts, &num_parts,
      parts_max, context_hash.data, callers, num_callers, {in.data, in.len, messages},
      &bad_message);
  if (status != Status::kOk) return arguments.Return(status, 0, bad_message);
  WriteParts(reinterpret_cast<double*>(parts_out.data), parts, num_parts);
  for (size_t i = 0; i < num_entries; i++) {
    double* fields = reinterpret_cast<double*>(entries_out.data) + (kEntryFields + 1) * i;
    fields[0] = entries[i].suite;
    fields[1] = -1;
    for (size_t c = 0; c < num_callers; c++) {
      if (callers[c].data == entries[i].key_entry.data) fields[1] = static_cast<double>(c);
    }
    fields[2] = fields[1] < 0 ? static_cast<double>(entries[i].key_entry.data - in.data) : 0;
    fields[3] = static_cast<double>(entries[i].key_entry.len);
    fields[4] = entries[i].num_messages;
    std::memcpy(cache_ids.data + 32 * i, entries[i].cache_id, 32);
  }
  return arguments.Return(128.0 * static_cast<double>(num_entries) +
                          static_cast<double>(num_parts));
}

// openBatch(implementation, output, offset, end, input, offset, end, messages, keys: Float64Array, entryOf,
// contextHash, failures) -> bytes written
napi_value Open(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const View out = arguments.Range();
  const View in = arguments.Range();
  const size_t messages = arguments.Size();
  const View keys = arguments.Array(napi_float64_array);
  const View entry_of = arguments.Array(napi_uint16_array);
  const View context_hash = arguments.Exactly(32);
  const View failures = arguments.Bytes8();
  if (!arguments.ok() || keys.len > kEntriesMax || entry_of.len < messages ||
      failures.len < messages) {
    return arguments.Misuse();
  }
  Handle handles[kEntriesMax];
  for (size_t i = 0; i < keys.len; i++) {
    const double key = reinterpret_cast<const double*>(keys.data)[i];
    if (!IsSize(key)) return arguments.Misuse();
    handles[i] = static_cast<Handle>(key);
  }
  size_t written = 0;
  size_t bad_message = 0;
  const Status status =
      OpenBatch(out.data, out.len, &written, failures.data, *gcm, handles, keys.len,
                reinterpret_cast<const uint16_t*>(entry_of.data), context_hash.data,
                {in.data, in.len, messages}, &bad_message);
  return arguments.Return(status, static_cast<double>(written), bad_message);
}

// replaceKeyEntries(output, offset, end, input, offset, end, messages, keyEntries, entryOf) -> bytes written
napi_value Replace(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const View out = arguments.Range();
  const View in = arguments.Range();
  const size_t messages = arguments.Size();
  Span entries[kEntriesMax];
  const size_t num_entries = arguments.List(entries, kEntriesMax);
  const View entry_of = arguments.Array(napi_uint16_array);
  if (!arguments.ok() || entry_of.len < messages) return arguments.Misuse();
  size_t written = 0;
  size_t bad_message = 0;
  const Status status = ReplaceKeyEntries(
      out.data, out.len, &written, entries, num_entries,
      reinterpret_cast<const uint16_t*>(entry_of.data), {in.data, in.len, messages}, &bad_message);
  return arguments.Return(status, static_cast<double>(written), bad_message);
}

// Packed batches.

// beginPacked(implementation, key, contextHash, messages, partFirstMessages: Uint32Array) -> ticket
napi_value Begin(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const Handle key = arguments.Size();
  const View context_hash = arguments.Exactly(32);
  const size_t messages = arguments.Size();
  const View firsts = arguments.Array(napi_uint32_array);
  if (!arguments.ok()) return arguments.Misuse();
  Handle ticket = 0;
  const Status status = BeginPacked(*gcm, key, context_hash.data, messages,
                                    reinterpret_cast<const uint32_t*>(firsts.data), firsts.len,
                                    &ticket);
  return arguments.Return(status, static_cast<double>(ticket));
}

// sealPackedPart(implementation, packed, offset, end, lengthsOffset, sealedOffset, ticket, part, input, offset, end).
// The two offsets count from the beginning of the packed value.
napi_value SealPart(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const View packed = arguments.Range();
  const size_t lengths_at = arguments.Size();
  const size_t sealed_at = arguments.Size();
  const Handle ticket = arguments.Size();
  const size_t part = arguments.Size();
  const View in = arguments.Range();
  if (!arguments.ok() || lengths_at > sealed_at || sealed_at + kGcmTagBytes > packed.len) {
    return arguments.Misuse();
  }
  size_t bad_message = 0;
  const Status status = SealPackedPart(packed.data + lengths_at, sealed_at - lengths_at,
                                       packed.data + sealed_at,
                                       packed.len - kGcmTagBytes - sealed_at, *gcm, ticket, part,
                                       {in.data, in.len}, &bad_message);
  return arguments.Return(status, 0, bad_message);
}

// finishPacked(implementation, packed, offset, end, ticket, keyEntry)
napi_value Finish(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const View packed = arguments.Range();
  const Handle ticket = arguments.Size();
  const View key_entry = arguments.Bytes8();
  if (!arguments.ok()) return arguments.Misuse();
  return arguments.Return(
      FinishPacked(packed.data, packed.len, *gcm, ticket, {key_entry.data, key_entry.len}), 0);
}

// verifyPacked(implementation, packed, offset, end, key, contextHash)
napi_value Verify(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const View packed = arguments.Range();
  const Handle key = arguments.Size();
  const View context_hash = arguments.Exactly(32);
  if (!arguments.ok()) return arguments.Misuse();
  return arguments.Return(VerifyPacked(*gcm, key, context_hash.data, {packed.data, packed.len}),
                          0);
}

// openPackedPart(implementation, output, offset, end, packed, offset, end, key, contextHash, firstMessage, messages,
// sealedOffset, failures) -> bytes written. sealedOffset counts from the beginning of the packed value.
napi_value OpenPart(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const View out = arguments.Range();
  const View packed = arguments.Range();
  const Handle key = arguments.Size();
  const View context_hash = arguments.Exactly(32);
  const size_t first_message = arguments.Size();
  const size_t messages = arguments.Size();
  const size_t sealed_at = arguments.Size();
  const View failures = arguments.Bytes8();
  if (!arguments.ok() || sealed_at > packed.len || failures.len < messages) {
    return arguments.Misuse();
  }
  size_t written = 0;
  const Status status = OpenPackedPart(out.data, out.len, &written, failures.data, *gcm, key,
                                       context_hash.data, {packed.data, packed.len},
                                       first_message, messages, sealed_at);
  return arguments.Return(status, static_cast<double>(written));
}

// Frames of the AWS Encryption SDK's message format.

// messageId, frameLength, firstSequence, frames, final
FrameRun NextFrameRun(Arguments* arguments) {
  const View message_id = arguments->Bytes8();
  const size_t frame_len = arguments->Size();
  const size_t first_sequence = arguments->Size();
  const size_t frames = arguments->Size();
  const bool final = arguments->Boolean();
  if (first_sequence > 0xffffffff) arguments->Fail();
  return {{message_id.data, message_id.len}, frame_len, static_cast<uint32_t>(first_sequence), frames, final};
}

// sealFrames(implementation, wire, key, messageId, frameLength, firstSequence, frames, final, plaintext)
napi_value SealRun(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const View out = arguments.Bytes8();
  const Handle key = arguments.Size();
  const FrameRun run = NextFrameRun(&arguments);
  const View in = arguments.Bytes8();
  if (!arguments.ok()) return arguments.Misuse();
  return arguments.Return(SealFrames(out.data, out.len, *gcm, key, run, {in.data, in.len}), 0);
}

// openFrames(implementation, plaintext, key, messageId, frameLength, firstSequence, frames, final, wire)
napi_value OpenRun(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const View out = arguments.Bytes8();
  const Handle key = arguments.Size();
  const FrameRun run = NextFrameRun(&arguments);
  const View in = arguments.Bytes8();
  if (!arguments.ok()) return arguments.Misuse();
  size_t bad_frame = 0;
  const Status status =
      OpenFrames(out.data, out.len, *gcm, key, run, {in.data, in.len}, &bad_frame);
  return arguments.Return(status, 0, bad_frame);
}

// For public test vectors: the caller brings key and nonce, which nothing in the service may do.

// insecureGcm(implementation, seal, out, key, nonce12, aad, input)
napi_value InsecureGcm(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const bool seal = arguments.Boolean();
  const View out = arguments.Bytes8();
  const View key = arguments.Exactly(kKeyBytes);
  const View nonce = arguments.Exactly(kGcmNonceBytes);
  const View aad = arguments.Bytes8();
  const View in = arguments.Bytes8();
  if (!arguments.ok() || (seal ? out.len != in.len + kGcmTagBytes
                               : out.len + kGcmTagBytes != in.len)) {
    return arguments.Misuse();
  }
  Scratch scratch;
  gcm->init(&scratch->gcm, key.data, in.len);
  GcmAad hashed;
  gcm->hash_aad(&hashed, &scratch->gcm, aad.data, aad.len);
  const uint8_t* tail = nonce.data + 8;
  const uint32_t index = static_cast<uint32_t>(tail[0]) << 24 |
                         static_cast<uint32_t>(tail[1]) << 16 |
                         static_cast<uint32_t>(tail[2]) << 8 | tail[3];
  GcmMessage message{in.data, out.data, seal ? in.len : out.len, index, false};
  if (seal) {
    gcm->seal_many(&scratch->gcm, hashed, nonce.data, &message, 1);
    return arguments.Return(0);
  }
  gcm->open_many(&scratch->gcm, hashed, nonce.data, &message, 1);
  return arguments.Return(message.ok ? Status::kOk : Status::kDecryptFailed, 0);
}

// insecureXaes(implementation, seal, out, suite, key, nonce24, aad, input)
napi_value InsecureXaes(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const AesGcm* gcm = arguments.Gcm();
  const bool seal = arguments.Boolean();
  const View out = arguments.Bytes8();
  const uint8_t suite = arguments.Size() == 2 ? 2 : 1;
  const View key = arguments.Exactly(kKeyBytes);
  const View nonce = arguments.Exactly(kXaesNonceBytes);
  const View aad = arguments.Bytes8();
  const View in = arguments.Bytes8();
  const size_t overhead = SealedOverhead(suite);
  if (!arguments.ok() ||
      (seal ? out.len != in.len + overhead : out.len + overhead != in.len)) {
    return arguments.Misuse();
  }
  Scratch scratch;
  XaesKey xaes;
  XaesInit(&xaes, *gcm, key.data);
  Status status = Status::kOk;
  if (seal) {
    SealXaes(out.data, scratch.area(), *gcm, suite, xaes, nonce.data, aad.data, aad.len, in.data, in.len);
  } else if (!OpenXaes(out.data, scratch.area(), *gcm, suite, xaes, nonce.data, aad.data, aad.len, in.data,
                       in.len)) {
    status = Status::kDecryptFailed;
  }
  Wipe(&xaes, sizeof(xaes));
  return arguments.Return(status, 0);
}

// insecureHkdf(out, ikm, salt, info)
napi_value InsecureHkdf(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const View out = arguments.Bytes8();
  const View ikm = arguments.Bytes8();
  const View salt = arguments.Bytes8();
  const View label = arguments.Bytes8();
  if (!arguments.ok()) return arguments.Misuse();
  Scratch scratch;
  HkdfExtract(scratch->prk, salt.data, salt.len, ikm.data, ikm.len, &scratch->hkdf);
  const bool expanded =
      HkdfExpand(out.data, out.len, scratch->prk, label.data, label.len, &scratch->hkdf);
  return arguments.Return(expanded ? Status::kOk : Status::kMisuse, 0);
}

// sha256(out, chunks)
napi_value Hash(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const View out = arguments.Exactly(32);
  Span chunks[kArgumentsMax];
  const size_t num_chunks = arguments.List(chunks, kArgumentsMax);
  if (!arguments.ok()) return arguments.Misuse();
  Sha256 hash;
  Sha256Init(&hash);
  for (size_t i = 0; i < num_chunks; i++) Sha256Update(&hash, chunks[i].data, chunks[i].len);
  Sha256Final(out.data, &hash);
  return arguments.Return(0);
}

// bootTimeMs() -> milliseconds on a clock that runs on while the machine sleeps. A lease is measured by it at every
// use of a KMS key, so it is a number and not an array that is filled.
napi_value BootTimeMs(napi_env env, napi_callback_info) {
#ifdef CLOCK_BOOTTIME
  constexpr clockid_t kClock = CLOCK_BOOTTIME;
#else
  constexpr clockid_t kClock = CLOCK_MONOTONIC;  // Elsewhere than on Linux it counts the time asleep.
#endif
  timespec time{};
  clock_gettime(kClock, &time);
  napi_value milliseconds = nullptr;
  napi_create_double(env, static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6,
                     &milliseconds);
  return milliseconds;
}

// encodeAuditLines(out, numbers, requestIds, pieces, ends, hash, group, sequence, first, lines: Float64Array(1)) -> bytes
napi_value EncodeLines(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const View out = arguments.Bytes8();
  const View numbers = arguments.Array(napi_float64_array);
  const View request_ids = arguments.Bytes8();
  const View pieces = arguments.Bytes8();
  const View ends = arguments.Array(napi_float64_array);
  const View hash = arguments.Exactly(kHexHashBytes);
  AuditChain chain;
  chain.group = arguments.Number();
  chain.sequence = arguments.Number();
  const size_t first = arguments.Size();
  const View lines = arguments.Array(napi_float64_array);
  if (!arguments.ok() || numbers.len % kEventColumns != 0 || ends.len % kHeadPieces != 0 || lines.len != 1) {
    return arguments.Misuse();
  }
  AuditEvents events;
  events.numbers = reinterpret_cast<const double*>(numbers.data);
  events.num_events = numbers.len / kEventColumns;
  events.request_ids = {request_ids.data, request_ids.len};
  events.pieces = {pieces.data, pieces.len};
  events.ends = reinterpret_cast<const double*>(ends.data);
  events.num_heads = ends.len / kHeadPieces;
  std::memcpy(chain.hash, hash.data, kHexHashBytes);
  AuditLines encoded;
  const Status status = EncodeAuditLines(out.data, out.len, events, first, &chain, &encoded);
  if (status != Status::kOk) return arguments.Return(status, 0);
  std::memcpy(hash.data, chain.hash, kHexHashBytes);
  *reinterpret_cast<double*>(lines.data) = static_cast<double>(encoded.num_events);
  return arguments.Return(static_cast<double>(encoded.len));
}

// boundReceiveBuffers(port, bytes) -> sockets
napi_value BoundReceive(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const size_t port = arguments.Size();
  const size_t bytes = arguments.Size();
  if (!arguments.ok() || port > UINT16_MAX || bytes > INT32_MAX) return arguments.Misuse();
  return arguments.Return(static_cast<double>(BoundReceiveBuffers(static_cast<uint16_t>(port), bytes)));
}

struct Function {
  const char* name;
  Callback callback;
};

constexpr Function kFunctions[] = {
    {"supports", SupportsImplementation},
    {"generateKey", Generate},
    {"importKey", Import},
    {"deriveKey", Derive},
    {"wrapKey", Wrap},
    {"unwrapKey", Unwrap},
    {"wrapBytes", WrapCallers},
    {"unwrapBytes", UnwrapCallers},
    {"releaseKey", Release},
    {"wipeAllKeys", WipeAll},
    {"keyTableUsage", Usage},
    {"createMessageKey", CreateMessage},
    {"openMessageKey", OpenMessage},
    {"messageKeyCommitment", Commitment},
    {"planParts", Plan},
    {"sealBatch", Seal},
    {"scanMessages", Scan},
    {"openBatch", Open},
    {"replaceKeyEntries", Replace},
    {"beginPacked", Begin},
    {"sealPackedPart", SealPart},
    {"finishPacked", Finish},
    {"verifyPacked", Verify},
    {"openPackedPart", OpenPart},
    {"sealFrames", SealRun},
    {"openFrames", OpenRun},
    {"insecureGcm", InsecureGcm},
    {"insecureXaes", InsecureXaes},
    {"insecureHkdf", InsecureHkdf},
    {"sha256", Hash},
    {"bootTimeMs", BootTimeMs},
    {"encodeAuditLines", EncodeLines},
    {"boundReceiveBuffers", BoundReceive},
};

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  if (!OpenKeyTable()) {
    Napi::Error::New(env, "the key table could not be mapped").ThrowAsJavaScriptException();
    return exports;
  }
  for (const Function& function : kFunctions) {
    napi_value value = nullptr;
    napi_create_function(env, function.name, NAPI_AUTO_LENGTH, function.callback, nullptr, &value);
    exports.Set(function.name, value);
  }
  return exports;
}

}  // namespace
}  // namespace keyfold

// The macro wants a name without a namespace.
static Napi::Object InitAddon(Napi::Env env, Napi::Object exports) {
  return keyfold::Init(env, exports);
}
NODE_API_MODULE(keyfold, InitAddon)
