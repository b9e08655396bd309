# The guest's process 1: network, RDMA core and drivers, then the agent; when that ends, power off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
hostname lab
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
modprobe dummy
ip link add d0 type dummy # RoCE runs inside the guest, on an interface that leads nowhere
ip addr add 192.168.77.1/24 dev d0
ip link set d0 up
modprobe -a rdma_rxe rdma_ucm ib_uverbs iw_cm libcrc32c crc32c_generic
insmod /run/lab/siw.ko
modprobe configfs
mount -t configfs configfs /sys/kernel/config
mkdir -p /etc/target /var/target/pr /run/lock/iscsi
rdma link add siw0 type siw netdev eth0
rdma link add rxe0 type rxe netdev d0
ulimit -l unlimited
ulimit -n 65536
port=
for name in /sys/class/virtio-ports/*/name; do
  [ "$(cat "$name")" = lab.agent ] && port=/dev/$(basename "$(dirname "$name")")
done
/usr/bin/python3 /run/lab/agent.py "$port"
echo o >/proc/sysrq-trigger
sleep 10
