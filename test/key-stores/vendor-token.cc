// SoftHSM2 with the habits of other vendors' tokens, as a PKCS#11 module that stands before it. VENDOR_MODULE names
// SoftHSM's library; VENDOR_HABITS lists, separated by spaces, what is different:
//
//   iv-in-place      writes its own IV over one of twelve zero bytes, as CloudHSM does
//   iv-appended      takes no IV, and appends its own to the ciphertext, as Luna does
//   vendor-number    CKM_AES_GCM is there as 0x80001087 only
//   final-try        one more wrong PIN would lock the token
//   sessions-3       opens no more than three sessions, and does not say so
//   clear-refusal    says ENCRYPTED_DATA_INVALID of a wrong tag, as SoftHSM 2.7 does
//   hangs            does not return from C_Encrypt, nor from C_GenerateKey once the key is there, while VENDOR_HANG is
//                    a file; grows VENDOR_HANG.held by a byte each time
//   pin-locked       says of each login that the PIN is locked
//   counts           C_GenerateRandom gives 1, 2, 3 and so on
//   breaks           once, at the tenth decryption: GENERAL_ERROR, and a token that is ill until C_Finalize
//
// VENDOR_LOGINS names a file that grows by a byte with each C_Login.
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <string>

#include <pkcs11/pkcs11.h>

namespace {

constexpr CK_MECHANISM_TYPE kVendorGcm = 0x80001087;
constexpr CK_ULONG kIvBytes = 12;

CK_FUNCTION_LIST list;
CK_FUNCTION_LIST_PTR real;
unsigned char next_iv[kIvBytes] = {1};
std::map<CK_SESSION_HANDLE, bool> appends;
CK_ULONG sessions_open = 0;
int decryptions = 0;
bool is_ill = false;

bool Has(const char* habit) {
  const char* habits = getenv("VENDOR_HABITS");
  return habits != nullptr && strstr(habits, habit) != nullptr;
}

void Append(const std::string& path) {
  if (FILE* file = fopen(path.c_str(), "a")) {
    fputc('.', file);
    fclose(file);
  }
}

void MayHang() {
  const char* path = getenv("VENDOR_HANG");
  if (!Has("hangs") || path == nullptr || access(path, F_OK) != 0) return;
  Append(std::string(path) + ".held");
  // The variable may name another file by now.
  for (std::string held = path; access(held.c_str(), F_OK) == 0;) usleep(1000);
}

CK_RV Finalize(CK_VOID_PTR reserved) {
  is_ill = false;
  sessions_open = 0;
  return real->C_Finalize(reserved);
}

CK_RV GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR token) {
  if (is_ill) return CKR_DEVICE_ERROR;
  CK_RV rv = real->C_GetTokenInfo(slot, token);
  if (rv == CKR_OK && Has("final-try")) token->flags |= CKF_USER_PIN_FINAL_TRY;
  if (Has("sessions-3")) token->ulMaxSessionCount = CK_UNAVAILABLE_INFORMATION;
  return rv;
}

CK_RV GetMechanismList(CK_SLOT_ID slot, CK_MECHANISM_TYPE_PTR mechanisms, CK_ULONG_PTR count) {
  CK_RV rv = real->C_GetMechanismList(slot, mechanisms, count);
  if (rv != CKR_OK || mechanisms == nullptr || !Has("vendor-number")) return rv;
  for (CK_ULONG i = 0; i < *count; i++) {
    if (mechanisms[i] == CKM_AES_GCM) mechanisms[i] = kVendorGcm;
  }
  return rv;
}

CK_RV OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR application, CK_NOTIFY notify,
                  CK_SESSION_HANDLE_PTR session) {
  if (Has("sessions-3") && sessions_open >= 3) return CKR_SESSION_COUNT;
  CK_RV rv = real->C_OpenSession(slot, flags, application, notify, session);
  if (rv == CKR_OK) sessions_open++;
  return rv;
}

CK_RV CloseSession(CK_SESSION_HANDLE session) {
  CK_RV rv = real->C_CloseSession(session);
  if (rv == CKR_OK) sessions_open--;
  return rv;
}

CK_RV Login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG length) {
  if (const char* path = getenv("VENDOR_LOGINS")) Append(path);
  if (Has("pin-locked")) return CKR_PIN_LOCKED;
  return real->C_Login(session, user, pin, length);
}

// What SoftHSM is to be told; false: this token would not take it.
bool Translate(CK_MECHANISM_PTR given, CK_MECHANISM* mechanism) {
  *mechanism = *given;
  if (Has("vendor-number")) {
    if (given->mechanism == CKM_AES_GCM) return false;
    if (given->mechanism == kVendorGcm) mechanism->mechanism = CKM_AES_GCM;
  }
  return true;
}

CK_RV EncryptInit(CK_SESSION_HANDLE session, CK_MECHANISM_PTR given, CK_OBJECT_HANDLE key) {
  CK_MECHANISM mechanism;
  if (!Translate(given, &mechanism)) return CKR_MECHANISM_INVALID;
  if (mechanism.mechanism != CKM_AES_GCM) return real->C_EncryptInit(session, &mechanism, key);
  CK_GCM_PARAMS parameters = *static_cast<CK_GCM_PARAMS*>(mechanism.pParameter);
  mechanism.pParameter = &parameters;
  if (Has("iv-in-place") || Has("iv-appended")) {
    next_iv[kIvBytes - 1]++;
    if (Has("iv-in-place")) {
      if (parameters.ulIvLen != kIvBytes) return CKR_MECHANISM_PARAM_INVALID;
      for (CK_ULONG i = 0; i < kIvBytes; i++) {
        if (parameters.pIv[i] != 0) return CKR_MECHANISM_PARAM_INVALID;
      }
      memcpy(parameters.pIv, next_iv, kIvBytes);
    } else {
      if (parameters.ulIvLen != 0) return CKR_MECHANISM_PARAM_INVALID;
      parameters.pIv = next_iv;
      parameters.ulIvLen = kIvBytes;
      parameters.ulIvBits = 8 * kIvBytes;
      appends[session] = true;
    }
  }
  return real->C_EncryptInit(session, &mechanism, key);
}

CK_RV Encrypt(CK_SESSION_HANDLE session, CK_BYTE_PTR input, CK_ULONG input_length,
              CK_BYTE_PTR output, CK_ULONG_PTR output_length) {
  MayHang();
  CK_ULONG room = *output_length;
  CK_RV rv = real->C_Encrypt(session, input, input_length, output, output_length);
  if (rv != CKR_OK || !appends[session]) return rv;
  appends[session] = false;
  if (room < *output_length + kIvBytes) return CKR_BUFFER_TOO_SMALL;
  memcpy(output + *output_length, next_iv, kIvBytes);
  *output_length += kIvBytes;
  return rv;
}

CK_RV GenerateKey(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_ATTRIBUTE_PTR wanted,
                  CK_ULONG count, CK_OBJECT_HANDLE_PTR key) {
  CK_RV rv = real->C_GenerateKey(session, mechanism, wanted, count, key);
  MayHang();
  return rv;
}

CK_RV DecryptInit(CK_SESSION_HANDLE session, CK_MECHANISM_PTR given, CK_OBJECT_HANDLE key) {
  CK_MECHANISM mechanism;
  if (!Translate(given, &mechanism)) return CKR_MECHANISM_INVALID;
  return real->C_DecryptInit(session, &mechanism, key);
}

CK_RV Decrypt(CK_SESSION_HANDLE session, CK_BYTE_PTR input, CK_ULONG input_length,
              CK_BYTE_PTR output, CK_ULONG_PTR output_length) {
  if (Has("breaks") && ++decryptions == 10) is_ill = true;
  CK_RV rv = real->C_Decrypt(session, input, input_length, output, output_length);
  if (is_ill) return CKR_GENERAL_ERROR;
  return rv == CKR_GENERAL_ERROR && Has("clear-refusal") ? CKR_ENCRYPTED_DATA_INVALID : rv;
}

CK_RV GenerateRandom(CK_SESSION_HANDLE session, CK_BYTE_PTR output, CK_ULONG length) {
  CK_RV rv = real->C_GenerateRandom(session, output, length);
  for (CK_ULONG i = 0; Has("counts") && i < length; i++) output[i] = i + 1;
  return rv;
}

}  // namespace

extern "C" CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR functions) {
  void* library = dlopen(getenv("VENDOR_MODULE"), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return CKR_GENERAL_ERROR;
  auto get = reinterpret_cast<CK_C_GetFunctionList>(dlsym(library, "C_GetFunctionList"));
  if (get == nullptr || get(&real) != CKR_OK) return CKR_GENERAL_ERROR;
  list = *real;
  list.C_Finalize = Finalize;
  list.C_GetTokenInfo = GetTokenInfo;
  list.C_GetMechanismList = GetMechanismList;
  list.C_OpenSession = OpenSession;
  list.C_CloseSession = CloseSession;
  list.C_Login = Login;
  list.C_GenerateRandom = GenerateRandom;
  list.C_EncryptInit = EncryptInit;
  list.C_Encrypt = Encrypt;
  list.C_GenerateKey = GenerateKey;
  list.C_DecryptInit = DecryptInit;
  list.C_Decrypt = Decrypt;
  *functions = &list;
  return CKR_OK;
}
