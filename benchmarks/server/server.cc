// An engine that does nothing but answer: what the clients are measured against.
//
// It keeps no events, checks no keys and takes a microsecond or two of its own for a
// call, so that what is measured is the client. One thread and one completion queue
// do all the work, so nothing here needs a lock.
//
//   bench_server [port] [streams]       port 0: any free one; streams: HTTP/2's limit
//
// The app key is taken for the app id. An event published to "corpus/NAME" is kept
// as a payload to be sent out later. Subscribing to
//
//   stream/CORPUS/COUNT/RATE/GROUP/ANYTHING
//
// sends COUNT events with the payloads of that corpus, in turn; RATE of them per second,
// or as fast as flow control lets them pass if RATE is 0; and only when an event is
// published to "start/GROUP", unless GROUP is "-". Each event says in its metadata when
// it was sent ("sent_ns", on the system's monotonic clock).
//
// On standard input: "stats" is answered with a line of JSON, "reset" starts the counters
// anew. It exits when its input ends, and so with the program that started it.
#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "ensync.grpc.pb.h"

namespace {

using ensync::EnSyncService;
using grpc::ServerCompletionQueue;
using grpc::ServerContext;
using Service = EnSyncService::AsyncService;

constexpr int kSlots = 512;  // calls of one method that are waited for at a time
constexpr int kFewSlots = 8;
constexpr int kMaxMessage = 16 << 20;

int64_t MonotonicNs() {
  auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// What happens when something that the completion queue was asked for is there.
struct Event {
  virtual ~Event() = default;
  virtual void Happened(bool ok) = 0;
};

struct Counters {
  uint64_t published = 0, payload_bytes = 0, sent = 0;
  uint64_t acknowledged = 0, repeated = 0, unknown = 0, other = 0;
};

class Stream;

struct State {
  Counters counters;
  uint64_t clients = 0, events = 0, streams = 0;
  std::map<std::string, std::vector<std::string>> corpora;
  std::map<std::string, std::set<Stream*>> waiting;  // by the group that starts them
  std::unordered_map<uint64_t, std::vector<bool>> acknowledged;  // by stream
} state;

// "stream/a/b" -> {"stream", "a", "b"}
std::vector<std::string> Parts(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, '/');) parts.push_back(part);
  return parts;
}

void StartGroup(const std::string& group);

// Calls with one answer

template <class Request, class Reply>
class Call final : public Event {
 public:
  using Writer = grpc::ServerAsyncResponseWriter<Reply>;
  using Accept = std::function<void(ServerContext*, Request*, Writer*, Event*)>;
  using Answer = void (*)(const Request&, Reply*);

  Call(Accept accept, Answer answer) : accept_(std::move(accept)), answer_(answer) { Wait(); }

  void Happened(bool ok) override {
    if (answered_) {
      Wait();
    } else if (ok) {
      answered_ = true;
      answer_(call_->request, &call_->reply);
      call_->writer.Finish(call_->reply, grpc::Status::OK, this);
    }
  }

 private:
  struct OneCall {
    ServerContext context;
    Request request;
    Reply reply;
    Writer writer{&context};
  };

  void Wait() {
    answered_ = false;
    call_ = std::make_unique<OneCall>();
    accept_(&call_->context, &call_->request, &call_->writer, this);
  }

  Accept accept_;
  Answer answer_;
  std::unique_ptr<OneCall> call_;
  bool answered_ = false;
};

// Streams of events

class Stream final : public Event {
 public:
  Stream(Service* service, ServerCompletionQueue* queue) : service_(service), queue_(queue) {
    context_.AsyncNotifyWhenDone(&left_);
    service_->RequestSubscribe(&context_, &request_, &writer_, queue_, queue_, this);
    busy_ = true;
  }

  // One of: a client has subscribed, it was told so, an event was written, one is due.
  void Happened(bool ok) override {
    busy_ = false;
    if (gone_ || (!ok && phase_ == Phase::kFree)) return delete this;
    if (!ok) return;
    if (phase_ == Phase::kFree) {
      Subscribed();
    } else if (phase_ == Phase::kRegistering) {
      Registered();
    } else {
      SendNext();
    }
  }

  void Start() {
    began_ = MonotonicNs();
    SendNext();
  }

 private:
  struct Left final : Event {
    explicit Left(Stream* owner) : stream(owner) {}
    void Happened(bool) override { stream->ClientLeft(); }
    Stream* stream;
  };

  enum class Phase { kFree, kRegistering, kSending };

  void Subscribed() {
    new Stream(service_, queue_);
    Configure(Parts(request_.event_name()));
    phase_ = Phase::kRegistering;
    busy_ = true;
    writer_.SendInitialMetadata(this);
  }

  void Registered() {
    phase_ = Phase::kSending;
    if (group_ == "-") {
      Start();
    } else {
      state.waiting[group_].insert(this);
    }
  }

  void Configure(const std::vector<std::string>& parts) {
    id_ = ++state.streams;
    if (parts.size() >= 5 && parts[0] == "stream") {
      payloads_ = state.corpora[parts[1]];
      count_ = payloads_.empty() ? 0 : std::strtoull(parts[2].c_str(), nullptr, 10);
      rate_ = std::atof(parts[3].c_str());
      group_ = parts[4];
    }
    state.acknowledged[id_].assign(count_, false);
    event_.set_event_name(request_.event_name());
    event_.set_sender("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
  }

  void SendNext() {
    if (sent_ == count_) return;  // the stream stays open until the client leaves
    busy_ = true;
    if (rate_ > 0 && WaitUntilDue()) return;
    event_.set_event_idem(std::to_string(id_) + "-" + std::to_string(sent_));
    event_.set_partition_block(static_cast<int64_t>(sent_) + 1);
    event_.set_payload(payloads_[sent_ % payloads_.size()]);
    event_.set_metadata("{\"sent_ns\":" + std::to_string(MonotonicNs()) + "}");
    ++sent_;
    ++state.counters.sent;
    writer_.Write(event_, this);
  }

  bool WaitUntilDue() {
    int64_t due = began_ + static_cast<int64_t>(static_cast<double>(sent_) * 1e9 / rate_);
    int64_t wait = due - MonotonicNs();
    if (wait <= 0) return false;
    auto when = std::chrono::system_clock::now() + std::chrono::nanoseconds(wait);
    alarm_.Set(queue_, when, this);
    return true;
  }

  void ClientLeft() {
    gone_ = true;
    auto group = state.waiting.find(group_);
    if (group != state.waiting.end()) group->second.erase(this);
    if (!busy_) delete this;
  }

  Service* service_;
  ServerCompletionQueue* queue_;
  Left left_{this};
  ServerContext context_;
  ensync::SubscribeRequest request_;
  grpc::ServerAsyncWriter<ensync::EventStreamResponse> writer_{&context_};
  ensync::EventStreamResponse event_;
  grpc::Alarm alarm_;
  std::vector<std::string> payloads_;
  std::string group_ = "-";
  uint64_t id_ = 0, count_ = 0, sent_ = 0;
  double rate_ = 0;
  int64_t began_ = 0;
  Phase phase_ = Phase::kFree;
  bool busy_ = false, gone_ = false;
};

void StartGroup(const std::string& group) {
  std::set<Stream*> streams;
  std::swap(streams, state.waiting[group]);
  for (Stream* stream : streams) stream->Start();
}

// Answers

void OnConnect(const ensync::ConnectRequest& request, ensync::ConnectResponse* reply) {
  reply->set_success(true);
  reply->set_client_id("client-" + std::to_string(++state.clients));
  reply->set_client_hash(request.access_key());
}

void OnHeartbeat(const ensync::HeartbeatRequest&, ensync::HeartbeatResponse* reply) {
  reply->set_success(true);
}

void OnPublish(const ensync::PublishEventRequest& request, ensync::PublishEventResponse* reply) {
  ++state.counters.published;
  state.counters.payload_bytes += request.payload().size();
  const std::string& name = request.event_name();
  if (name.rfind("corpus/", 0) == 0) state.corpora[name.substr(7)].push_back(request.payload());
  if (name.rfind("start/", 0) == 0) StartGroup(name.substr(6));
  reply->set_success(true);
  reply->set_event_idem("event-" + std::to_string(++state.events));
}

void OnAcknowledge(const ensync::AcknowledgeRequest& request, ensync::AcknowledgeResponse* reply) {
  char* end = nullptr;
  uint64_t stream = std::strtoull(request.event_idem().c_str(), &end, 10);
  uint64_t number = *end == '-' ? std::strtoull(end + 1, nullptr, 10) : UINT64_MAX;
  auto seen = state.acknowledged.find(stream);
  bool known = seen != state.acknowledged.end() && number < seen->second.size() &&
               request.partition_block() == static_cast<int64_t>(number) + 1;
  if (!known) {
    ++state.counters.unknown;
  } else if (seen->second[number]) {
    ++state.counters.repeated;
  } else {
    seen->second[number] = true;
    ++state.counters.acknowledged;
  }
  reply->set_success(true);
}

template <class Request, class Reply>
void OnOther(const Request&, Reply* reply) {
  ++state.counters.other;
  reply->set_success(true);
}

// The control channel

std::string Stats() {
  const Counters& c = state.counters;
  std::ostringstream out;
  out << "{\"published\":" << c.published << ",\"payload_bytes\":" << c.payload_bytes
      << ",\"sent\":" << c.sent << ",\"acknowledged\":" << c.acknowledged
      << ",\"repeated\":" << c.repeated << ",\"unknown\":" << c.unknown
      << ",\"other\":" << c.other << "}";
  return out.str();
}

// A line of input is handled by the one thread that owns the state, as all else is.
class Command final : public Event {
 public:
  Command(std::string text, ServerCompletionQueue* queue) : text_(std::move(text)) {
    alarm_.Set(queue, std::chrono::system_clock::now(), this);
  }

  void Happened(bool) override {
    if (text_ == "stats") std::cout << Stats() << std::endl;
    if (text_ == "reset") {
      state.counters = Counters();
      std::cout << "{}" << std::endl;
    }
    delete this;
  }

 private:
  std::string text_;
  grpc::Alarm alarm_;
};

void ReadCommands(ServerCompletionQueue* queue) {
  for (std::string line; std::getline(std::cin, line);) new Command(line, queue);
  std::_Exit(0);
}

// Offering the methods

class Offers {
 public:
  Offers(Service* service, ServerCompletionQueue* queue) : service_(service), queue_(queue) {}

  template <class Method, class Request, class Reply>
  void Offer(int slots, Method method, void (*answer)(const Request&, Reply*)) {
    auto accept = [method, service = service_, queue = queue_](
                      ServerContext* context, Request* request,
                      grpc::ServerAsyncResponseWriter<Reply>* writer, Event* event) {
      (service->*method)(context, request, writer, queue, queue, event);
    };
    for (int i = 0; i < slots; ++i) new Call<Request, Reply>(accept, answer);
  }

 private:
  Service* service_;
  ServerCompletionQueue* queue_;
};

void OfferAll(Service* service, ServerCompletionQueue* queue) {
  using namespace ensync;
  Offers offers(service, queue);
  offers.Offer(kFewSlots, &Service::RequestConnect, OnConnect);
  offers.Offer(kFewSlots, &Service::RequestHeartbeat, OnHeartbeat);
  offers.Offer(kSlots, &Service::RequestPublishEvent, OnPublish);
  offers.Offer(kSlots, &Service::RequestPublishMessage, OnPublish);
  offers.Offer(kSlots, &Service::RequestAcknowledgeEvent, OnAcknowledge);
  offers.Offer(kSlots, &Service::RequestAcknowledgeMessage, OnAcknowledge);
  offers.Offer(kSlots, &Service::RequestUnsubscribe,
               OnOther<UnsubscribeRequest, UnsubscribeResponse>);
  offers.Offer(kFewSlots, &Service::RequestDiscardEvent, OnOther<DiscardRequest, DiscardResponse>);
  offers.Offer(kFewSlots, &Service::RequestDiscardMessage,
               OnOther<DiscardRequest, DiscardResponse>);
  offers.Offer(kFewSlots, &Service::RequestPauseEvents, OnOther<PauseRequest, PauseResponse>);
  offers.Offer(kFewSlots, &Service::RequestPauseMessages, OnOther<PauseRequest, PauseResponse>);
  offers.Offer(kFewSlots, &Service::RequestContinueEvents,
               OnOther<ContinueRequest, ContinueResponse>);
  offers.Offer(kFewSlots, &Service::RequestContinueMessages,
               OnOther<ContinueRequest, ContinueResponse>);
  for (int i = 0; i < kFewSlots; ++i) new Stream(service, queue);
}

}  // namespace

int main(int argc, char** argv) {
  std::string port = argc > 1 ? argv[1] : "0";
  Service service;
  grpc::ServerBuilder builder;
  int chosen = 0;
  builder.AddListeningPort("127.0.0.1:" + port, grpc::InsecureServerCredentials(), &chosen);
  builder.SetMaxReceiveMessageSize(kMaxMessage);
  if (argc > 2) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, std::atoi(argv[2]));
  }
  builder.RegisterService(&service);
  auto queue = builder.AddCompletionQueue();
  auto server = builder.BuildAndStart();
  if (!server || chosen == 0) {
    std::cerr << "cannot listen on port " << port << std::endl;
    return 1;
  }
  OfferAll(&service, queue.get());
  std::cout << "ready " << chosen << std::endl;
  std::thread(ReadCommands, queue.get()).detach();
  void* tag = nullptr;
  bool ok = false;
  while (queue->Next(&tag, &ok)) static_cast<Event*>(tag)->Happened(ok);
}
