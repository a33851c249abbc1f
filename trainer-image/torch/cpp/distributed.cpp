// Owns the C entry points for libtorch's c10d: a key-value store over TCP and a group of processes over Gloo. A group
// is kept as c10d::Backend, which NCCL's is too. Exceptions end as in guard.hpp.

#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "guard.hpp"

namespace {

using bessemer::guarded;
using Handle = at::Tensor*;
using Bytes = std::vector<uint8_t>;
using std::chrono::milliseconds;

struct Store {
  c10::intrusive_ptr<c10d::Store> inner;
};

struct Group {
  c10::intrusive_ptr<c10d::Backend> inner;
};

// Hands bytes to the caller, who releases them with bessemer_torch_free.
void give(const Bytes& bytes, uint8_t** value, size_t* length) {
  *value = static_cast<uint8_t*>(std::malloc(bytes.size() + 1));
  if (*value == nullptr) throw std::bad_alloc();
  std::copy(bytes.begin(), bytes.end(), *value);
  *length = bytes.size();
}

}  // namespace

extern "C" {

// Connects to the store at host:port. With a `listener` (a bound socket, taken over) it is served from this process,
// too; -1 means that another process does.
char* bessemer_torch_store_new(const char* host, uint16_t port, int listener, int64_t timeout, Store** store) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = listener >= 0;
    if (listener >= 0) options.masterListenFd = listener;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout);
    *store = new Store{c10::make_intrusive<c10d::TCPStore>(host, options)};
  });
}

void bessemer_torch_store_free(Store* store) { delete store; }

char* bessemer_torch_store_set(Store* store, const char* key, const uint8_t* value, size_t length) {
  return guarded([&] { store->inner->set(key, Bytes(value, value + length)); });
}

// The key must exist: wait for it, or ask whether it does.
char* bessemer_torch_store_get(Store* store, const char* key, uint8_t** value, size_t* length) {
  return guarded([&] { give(store->inner->get(key), value, length); });
}

char* bessemer_torch_store_wait(Store* store, const char* key, int64_t timeout) {
  return guarded([&] { store->inner->wait({key}, milliseconds(timeout)); });
}

char* bessemer_torch_store_add(Store* store, const char* key, int64_t amount, int64_t* sum) {
  return guarded([&] { *sum = store->inner->add(key, amount); });
}

char* bessemer_torch_store_has(Store* store, const char* key, bool* found) {
  return guarded([&] { *found = store->inner->check({key}); });
}

// Sets a key that does not exist, and gives the value that it has then.
char* bessemer_torch_store_first(Store* store, const char* key, const uint8_t* wanted, size_t wanted_length,
                                 uint8_t** value, size_t* length) {
  return guarded([&] {
    give(store->inner->compareSet(key, Bytes(), Bytes(wanted, wanted + wanted_length)), value, length);
  });
}

// A group over Gloo whose connections use the address `own`.
char* bessemer_torch_group_gloo(Store* store, int rank, int size, const char* own, int64_t timeout, Group** group) {
  return guarded([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(milliseconds(timeout));
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(own));
    auto prefixed = c10::make_intrusive<c10d::PrefixStore>("gloo", store->inner);
    *group = new Group{c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, rank, size, options)};
  });
}

// Closes all connections.
void bessemer_torch_group_free(Group* group) { delete group; }

// Sums `tensor` over all ranks in place.
char* bessemer_torch_group_all_reduce(Group* group, Handle tensor) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    std::vector<at::Tensor> tensors{*tensor};
    group->inner->allreduce(tensors)->wait();
  });
}

// Overwrites `tensor` with that of rank `root`.
char* bessemer_torch_group_broadcast(Group* group, Handle tensor, int64_t root) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    c10d::BroadcastOptions options;
    options.rootRank = root;
    std::vector<at::Tensor> tensors{*tensor};
    group->inner->broadcast(tensors, options)->wait();
  });
}

// Fills `outputs`, one for each rank and all of the shape of `input`.
char* bessemer_torch_group_all_gather(Group* group, Handle input, const Handle* outputs, size_t count) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    std::vector<at::Tensor> inputs{*input};
    std::vector<std::vector<at::Tensor>> all(1);
    for (size_t i = 0; i < count; ++i) all[0].push_back(*outputs[i]);
    group->inner->allgather(all, inputs)->wait();
  });
}

char* bessemer_torch_group_barrier(Group* group) {
  return guarded([&] { group->inner->barrier()->wait(); });
}

}  // extern "C"
