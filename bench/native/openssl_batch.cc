// The peer `opensslBatch` of the kernel benchmark: OpenSSL's EVP interface used as well as it can be, in one call
// from C++ for a whole batch, with the key set once and only the nonce renewed. It links to the OpenSSL that the
// running Node exports. Not part of the product.

#include <node_api.h>
#include <openssl/evp.h>

#include <cstdint>
#include <cstring>

namespace {

struct Bytes {
  uint8_t* data = nullptr;
  size_t len = 0;
};

Bytes GetBytes(napi_env env, napi_value value) {
  Bytes bytes;
  void* data = nullptr;
  napi_typedarray_type type;
  napi_value array_buffer;
  size_t offset;
  napi_get_typedarray_info(env, value, &type, &bytes.len, &data, &array_buffer, &offset);
  bytes.data = static_cast<uint8_t*>(data);
  return bytes;
}

// run(seal, key32, noncePrefix8, aad, input, messageBytes, messages, output) -> whether every message went well.
// Sealed messages are ciphertext ‖ tag16, one after the other; the nonce of message i is prefix ‖ u32be(i).
napi_value Run(napi_env env, napi_callback_info info) {
  size_t argc = 8;
  napi_value argv[8];
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  bool seal = false;
  napi_get_value_bool(env, argv[0], &seal);
  const Bytes key = GetBytes(env, argv[1]);
  const Bytes prefix = GetBytes(env, argv[2]);
  const Bytes aad = GetBytes(env, argv[3]);
  const Bytes input = GetBytes(env, argv[4]);
  uint32_t message_bytes = 0;
  uint32_t messages = 0;
  napi_get_value_uint32(env, argv[5], &message_bytes);
  napi_get_value_uint32(env, argv[6], &messages);
  const Bytes output = GetBytes(env, argv[7]);

  const size_t sealed_bytes = static_cast<size_t>(message_bytes) + 16;
  const size_t in_stride = seal ? message_bytes : sealed_bytes;
  const size_t out_stride = seal ? sealed_bytes : message_bytes;
  bool ok = key.len == 32 && prefix.len == 8 && input.len >= in_stride * messages &&
            output.len >= out_stride * messages;
  EVP_CIPHER_CTX* cipher = EVP_CIPHER_CTX_new();
  ok = ok && EVP_CipherInit_ex(cipher, EVP_aes_256_gcm(), nullptr, key.data, nullptr, seal ? 1 : 0) == 1;
  uint8_t nonce[12];
  for (uint32_t i = 0; ok && i < messages; i++) {
    std::memcpy(nonce, prefix.data, 8);
    nonce[8] = static_cast<uint8_t>(i >> 24);
    nonce[9] = static_cast<uint8_t>(i >> 16);
    nonce[10] = static_cast<uint8_t>(i >> 8);
    nonce[11] = static_cast<uint8_t>(i);
    const uint8_t* in = input.data + i * in_stride;
    uint8_t* out = output.data + i * out_stride;
    int len = 0;
    uint8_t rest[16];
    ok = EVP_CipherInit_ex(cipher, nullptr, nullptr, nullptr, nonce, -1) == 1 &&
         EVP_CipherUpdate(cipher, nullptr, &len, aad.data, static_cast<int>(aad.len)) == 1 &&
         EVP_CipherUpdate(cipher, out, &len, in, static_cast<int>(message_bytes)) == 1;
    if (!seal) {
      ok = ok && EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_SET_TAG, 16,
                                     const_cast<uint8_t*>(in + message_bytes)) == 1;
    }
    ok = ok && EVP_CipherFinal_ex(cipher, rest, &len) == 1;
    if (seal) {
      ok = ok && EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, 16, out + message_bytes) == 1;
    }
  }
  EVP_CIPHER_CTX_free(cipher);
  napi_value result;
  napi_get_boolean(env, ok, &result);
  return result;
}

}  // namespace

NAPI_MODULE_INIT() {
  napi_value run;
  napi_create_function(env, "run", NAPI_AUTO_LENGTH, Run, nullptr, &run);
  napi_set_named_property(env, exports, "run", run);
  return exports;
}
