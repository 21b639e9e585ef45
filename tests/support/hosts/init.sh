# Becomes the first process of a host: makes its root from the overlay and starts systemd there.
# Runs in the host's own namespaces. Arguments: the host's name, its directory.
set -eu
name=$1 dir=$2 root=$2/root
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/disk,workdir=$dir/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=755 dev "$root/dev"
for node in null zero full random urandom tty; do cp -a "/dev/$node" "$root/dev/"; done
mkdir -p "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
# What the kernel has only once belongs to the machine, so a host may read it and no more.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -o remount,bind,ro "$root/sys"
hostname "$name"
exec env -i container=rollback-tests PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  chroot "$root" /usr/lib/systemd/systemd --system --unit=fleet.target \
  --log-target=journal --show-status=0
