# Commands of the installed package, without a checkout. Run by `make test-wheel`.
segbundle --help >help.txt
segbundle samples data --num_training 6 --num_test 1
segbundle check data --config configs/phantom.yaml
segbundle train --config configs/phantom.yaml --dataset_dir data --output_dir training --max_epochs 2 --val_interval 1
segbundle evaluate --config configs/phantom.yaml --dataset_dir data --data_list_key test \
    --ckpt_path training/model.pt --output_dir evaluation
segbundle predict data/imagesTs --config configs/phantom.yaml --ckpt_path training/model.pt --output_dir predictions
segbundle report evaluation
segbundle report predictions
segbundle reproduce >reproductions.txt
python -c "import glob, segbundle as sb; print(sb.predict(glob.glob('data/imagesTs/*'), model='training/model.pt'))"
test -s evaluation/report.html
test -s predictions/report.html
test -s predictions/*_seg.nii.gz
! python -c "import matplotlib"
