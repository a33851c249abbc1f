# Sourced by `node`: certificates, and what only the first node runs: control plane, DNS, the S3 server.
# shellcheck shell=bash disable=SC2034,SC2154  # address, domain, here, keys, server, state: of `node`

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$keys/$1.key"; }
authority() {
  key "$1"
  openssl req -x509 -new -key "$keys/$1.key" -subj "/CN=$1" -days 3650 -out "$keys/$1.crt" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
}
certificate() { # name authority subject [extensions]
  key "$1"
  printf '%s\n' "extendedKeyUsage=serverAuth,clientAuth" "${@:4}" > "$keys/$1.ext"
  openssl req -new -key "$keys/$1.key" -subj "$3" -out "$keys/$1.csr"
  openssl x509 -req -in "$keys/$1.csr" -CA "$keys/$2.crt" -CAkey "$keys/$2.key" -CAcreateserial -days 3650 \
    -extfile "$keys/$1.ext" -out "$keys/$1.crt" 2>/dev/null
}
client() { # name subject [kubeconfig]
  certificate "$1" ca "$2"
  cat > "${3:-$state/$1.kubeconfig}" <<CONFIG
apiVersion: v1
kind: Config
current-context: cluster
clusters: [{name: cluster, cluster: {server: "https://$server:6443", certificate-authority: "$keys/ca.crt"}}]
users: [{name: "$1", user: {client-certificate: "$keys/$1.crt", client-key: "$keys/$1.key"}}]
contexts: [{name: cluster, context: {cluster: cluster, user: "$1"}}]
CONFIG
}
certificates() {
  authority ca
  authority front-proxy-ca
  local names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.$domain,DNS:localhost
  certificate apiserver ca /CN=kube-apiserver "subjectAltName=$names,IP:127.0.0.1,IP:10.0.0.1,IP:$server"
  certificate front-proxy front-proxy-ca /CN=system:auth-proxy
  openssl genrsa -out "$keys/accounts.key" 2048 2>/dev/null
  client admin /O=system:masters/CN=admin "$KUBECONFIG"
  client controller-manager /CN=system:kube-controller-manager
  client scheduler /CN=system:kube-scheduler
  client proxy /CN=system:kube-proxy
  client coredns /CN=system:coredns
}

s3_server() {
  local access=bessemer secret
  secret=$(openssl rand -hex 16)
  printf 'AWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\nAWS_REGION=us-east-1\nS3_ENDPOINT=http://%s:9000\n' \
    "$access" "$secret" "$address" > "$state/s3.env"
  ROOT_ACCESS_KEY=$access ROOT_SECRET_KEY=$secret start s3 versitygw --port "$address:9000" --region us-east-1 posix "$state/s3"
}
api_server() {
  cat > "$state/audit.yaml" <<'AUDIT'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: None, userGroups: ["system:nodes", "system:masters"], verbs: [get, list, watch]}
  - {level: Metadata}
AUDIT
  # Compaction so often that operators meet its end (410), and e2e/scenarios/expiry.yaml does.
  start apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --etcd-compaction-interval 2s \
    --bind-address 0.0.0.0 --advertise-address "$address" --secure-port 6443 \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
    --service-cluster-ip-range 10.0.0.0/24 --client-ca-file "$keys/ca.crt" \
    --tls-cert-file "$keys/apiserver.crt" --tls-private-key-file "$keys/apiserver.key" \
    --kubelet-client-certificate "$keys/apiserver.crt" --kubelet-client-key "$keys/apiserver.key" \
    --kubelet-preferred-address-types InternalIP --service-account-issuer https://kubernetes.default.svc \
    --service-account-key-file "$keys/accounts.key" --service-account-signing-key-file "$keys/accounts.key" \
    --requestheader-client-ca-file "$keys/front-proxy-ca.crt" --requestheader-allowed-names system:auth-proxy \
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
    --requestheader-extra-headers-prefix X-Remote-Extra- \
    --proxy-client-cert-file "$keys/front-proxy.crt" --proxy-client-key-file "$keys/front-proxy.key" \
    --audit-policy-file "$state/audit.yaml" --audit-log-path "$state/audit/audit.log"
}
controller() { # NAME flags...
  local config=$state/$1.kubeconfig
  start "$1" "kube-$1" --authentication-kubeconfig "$config" --authorization-kubeconfig "$config" "${@:2}"
}
control_plane() {
  certificates
  s3_server
  start etcd etcd --data-dir "$state/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
  api_server
  wait_for 60 kube-apiserver kubectl get --raw /readyz
  controller controller-manager --kubeconfig "$state/controller-manager.kubeconfig" --use-service-account-credentials \
    --service-account-private-key-file "$keys/accounts.key" --root-ca-file "$keys/ca.crt" --leader-elect=false \
    --cluster-signing-cert-file "$keys/ca.crt" --cluster-signing-key-file "$keys/ca.key" --cert-dir "$state/controller-manager" \
    --flex-volume-plugin-dir "$state/plugins"
  cat > "$state/scheduler.yaml" <<CONFIG
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: "$state/scheduler.kubeconfig"}
leaderElection: {leaderElect: false}
CONFIG
  controller scheduler --config "$state/scheduler.yaml"
}
add_ons() {
  kubectl apply -f "$here/addons.yaml"
  cat > "$state/Corefile" <<CONFIG
.:53 {
  bind $address
  errors
  health 127.0.0.1:8080
  ready 127.0.0.1:8181
  kubernetes $domain in-addr.arpa {
    kubeconfig $state/coredns.kubeconfig cluster
    pods insecure
    ttl 1
  }
}
CONFIG
  start coredns coredns -conf "$state/Corefile"
}
add_ons_answer() {
  wait_for 60 coredns curl -fsS http://127.0.0.1:8181/ready
  wait_for 60 "the S3 server" timeout 2 bash -c "</dev/tcp/$address/9000"
  wait_for 60 "the default service account" kubectl get serviceaccount default
}
